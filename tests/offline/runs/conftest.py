"""A workspace of nights as they leave it, each with a bundle of its own in the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from engines.store.bundle import Provenance
from engines.store.store import Store
from offline.evaluation.evaluate import EvaluationSettings, Report, evaluate
from offline.pipeline.stage import StageManifest
from offline.runs.run_record import RunOutcome, RunRecord, StageRun, append_run
from offline.splits.splits_file import SplitRow, Splits, SplitSet
from stage1.artifacts import sha256_file
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.probability.calibrator import ProbabilityCalibrator

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
WEIGHTS = 40_000


def day(number: float) -> datetime:
    return BEGIN + timedelta(days=number)


@dataclass
class House:
    """A workspace, a store, and what makes nights in them."""

    workspace: Path
    store: Store
    make: Callable[..., Path]
    report: Report

    def night(
        self,
        number: int,
        verdict: str = "PROMOTE",
        *,
        exits: float = 0.5,
        run: str | None = None,
        noted: bool = True,
        config: str = "{}",
        trained_on: Sequence[str] = (),
    ) -> str:
        """One night: a training, a run, a bundle; returns the id of the bundle."""
        name, at = run or f"run{number:02d}", day(number).isoformat()
        stage = self.stage(number)
        home = self.workspace / "runs" / name
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "weights").exists():
            os.link(stage / "weights", home / "weights")
        (home / "config.json").write_text(config)
        provenance = Provenance(run=name, created_at=at, code_version="test", data_sha256="d" * 64)
        files = self.make(number, exits, trained_on)
        bundle = self.store.publish(files, provenance)
        if verdict == "PROMOTE":
            self.store.activate(bundle, now=day(number))
        outcome = RunOutcome(
            bundle=bundle,
            champion=None,
            verdict=verdict,
            current=verdict == "PROMOTE",
            status="CERTIFIED",
            alpha=0.05,
            statement="It holds.",
            looks_left=5,
            exit_coverage=exits,
            mcc=0.9,
        )
        if noted:
            append_run(self.workspace, self.record(number, name, outcome))
        return bundle

    def record(self, number: int, run: str, outcome: RunOutcome | None = None, **changes: Any) -> RunRecord:
        at = day(number).isoformat()
        about: dict[str, Any] = {
            "run": run,
            "data_sha256": "d" * 64,
            "rows": 100 + number,
            "started_at": at,
            "finished_at": at,
            "seconds": 60.0,
            "last": "publish",
            "stages": {"train": StageRun(key=f"key{number:02d}", seconds=50.0, ran=True)},
            "disk_bytes": 3 * WEIGHTS,
            "outcome": outcome,
        }
        return RunRecord(**(about | changes))

    def stage(self, number: int) -> Path:
        """A finished training."""
        home = self.workspace / "stages" / "train" / f"key{number:02d}"
        if not home.exists():
            home.mkdir(parents=True)
            (home / "weights").write_bytes(bytes([number]) * WEIGHTS)
            at = day(number).isoformat(timespec="seconds")
            files = {"weights": sha256_file(home / "weights")}
            StageManifest(stage="train", key=home.name, inputs={}, files=files, started_at=at, finished_at=at).write(
                home / "stage.json"
            )
        return home

    def runs(self) -> list[str]:
        return sorted(path.name for path in (self.workspace / "runs").iterdir())

    def stages(self) -> list[str]:
        return sorted(path.name for path in (self.workspace / "stages" / "train").iterdir())

    def bundles(self) -> list[str]:
        return [row.manifest.bundle_id for row in self.store.bundles()]


@pytest.fixture(scope="session")
def night_report(binormal: Callable[..., LabelledOutputs], certificate: Callable[..., ScrcParams]) -> Report:
    settings = EvaluationSettings(repetitions=0)
    return evaluate(binormal(300, seed=5, prefix="t"), certificate(), ProbabilityCalibrator(), settings=settings)


@pytest.fixture
def house(
    tmp_path: Path,
    store: Store,
    tiny_engine: Path,
    write_bundle_files: Callable[..., Path],
    night_report: Report,
) -> House:
    def make(number: int, exits: float, trained_on: Sequence[str]) -> Path:
        files = write_bundle_files(tmp_path / "files" / f"{number} {exits}", engine=tiny_engine, note=str(number))
        policy, *others = night_report.policies
        rate = policy.exit_coverage.model_copy(update={"events": round(exits * policy.exit_coverage.trials)})
        changed = (policy.model_copy(update={"exit_coverage": rate}), *others)
        night_report.model_copy(update={"policies": changed}).write(files / "report.json")
        nothing = SplitSet(rows=(), groups=0, positives=0)
        rows = tuple(SplitRow(row=row, group=row, sha256=row.encode().hex().rjust(64, "0")) for row in trained_on)
        sets: Any = dict.fromkeys(("val_select", "val_calib", "test"), nothing)
        sets["train"] = SplitSet(rows=rows, groups=len(rows), positives=0)
        Splits(seed=0, data_sha256="d", sets=sets, folds=()).write(files / "splits.json")
        return files

    (tmp_path / "workspace").mkdir()
    return House(tmp_path / "workspace", store, make, night_report)

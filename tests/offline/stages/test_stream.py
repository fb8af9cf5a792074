"""What a night sends through the stream that it certifies, and what stays as it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.store.golden import read_golden
from engines.store.stage2_scores import SCORES, Score, ScoredServer, scores_of
from offline.config import RunConfig, load_config
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import write_scenes
from offline.evaluation.cascade_curve import CascadeFile
from offline.evaluation.evaluate import Report
from offline.evaluation.stage2_answers import sent_hashes
from offline.learning.challenge_views import ChallengeViews
from offline.night import NightOutcome, run_night, stages
from offline.pipeline.progress import Silence
from offline.splits.splits_file import Splits
from offline.stages.calibrate_scrc import golden_rows
from offline.stream.challenge import CELLS
from offline.stream.sender import StreamSender, sender_of
from stage1.certificate.params import ScrcParams
from stage1.preprocess import Pixels, PreprocessSettings
from tests.support.stage_keys import changed_stages

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def config(**changes: object) -> RunConfig:
    quick: dict[str, Any] = {
        "preprocess.size_px": 64,
        "model.backbone.layers": 2,
        "train_supervised.epochs": 1,
        "compare_training.baseline": False,
        "compare_training.repetitions": 5,
        "splits.hash_distance": None,
        # So that something is certified of so few scenes by so small a model.
        "calibrate_scrc.risk": "D5",
        "calibrate_scrc.alpha": 0.45,
        "calibrate_scrc.seed": 6,
        "eval_selective.cell_rows": 5,
    }
    return load_config("tiny", None, quick | {name.replace("__", "."): value for name, value in changes.items()})


@dataclass
class Noted(Silence):
    """Notes which rows are sent in which stage."""

    now: str = ""
    sent: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def stage(self, name: str, state: str) -> None:
        self.now = name if state == "running" else ""


@dataclass(frozen=True)
class Night:
    """A night, and what was sent in it."""

    data: Path
    outcome: NightOutcome
    sent: dict[str, set[str]]

    @property
    def splits(self) -> Splits:
        return Splits.read(self.outcome.run / "splits.json")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    home = tmp_path_factory.mktemp("stream")
    list(write_scenes(home / "scenes", scenes=120))
    noted, send = Noted(), StreamSender.__call__

    def sending(self: StreamSender, name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        if self.stream != "originals":
            noted.sent[noted.now].add(name)
        return send(self, name, content, settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamSender, "__call__", sending)
        outcome = run_night(
            home / "scenes",
            workspace=home / "w",
            store=home / "s",
            config=config(),
            last="eval_selective",
            progress=noted,
            now=lambda: NOW,
        )
    return Night(home / "scenes", outcome, dict(noted.sent))


def test_rows_that_choose_certify_and_report_are_sent_and_no_row_that_trains(night: Night) -> None:
    rows = {name: set(part.ids) for name, part in night.splits.sets.items()}
    assert night.sent == {
        "train_supervised": rows["val_select"],
        # What an earlier stage has decoded is read from the disk.
        "train_ablations": rows["test"],
        "screen": rows["val_select"],
        "calibrate_scrc": rows["val_select"] | rows["val_calib"],
        "eval_selective": rows["test"],
    }


def test_the_certificate_names_the_stream_of_the_config(night: Night) -> None:
    params = ScrcParams.read(night.outcome.run / "scrc_params.json")
    assert (params.status, params.stream, params.seed) == ("CERTIFIED", "mixture", 6)
    assert "stream mixture" in params.statement
    assert "stream mixture" in (night.outcome.run / "report.html").read_text()


def test_golden_images_are_pixels_of_the_stream(night: Night) -> None:
    rows = golden_rows(night.splits.dataset(read_dataset(night.data), "val_select"), config().seed)
    images, _ = read_golden(night.outcome.run / "golden.npz")
    sent = rows.sent_by(sender_of(config().calibrate_scrc)).array(config().preprocess)
    assert np.array_equal(images, sent)
    assert not np.array_equal(images, rows.array(config().preprocess))


def test_the_report_counts_each_era_and_level_of_the_test_rows(night: Night) -> None:
    report = Report.read(night.outcome.run / "report.json")
    assert [cell.cell for cell in report.cells] == ["originals", *(str(cell) for cell in CELLS)]
    assert {cell.rows for cell in report.cells} == {5}
    page = (night.outcome.run / "report.html").read_text()
    assert all(str(cell) in page for cell in CELLS)


def test_scores_of_a_stage_2_that_come_after_the_night_are_joined_when_it_is_run_again(night: Night) -> None:
    assert "No Stage-2 server has been asked" in (night.outcome.run / "report.html").read_text()
    home, settings, data = night.data.parent, config(), read_dataset(night.data)
    kept = scores_of(home / "s", ScoredServer(kind="kserve", name="yolo", model="yolox", version="1"))
    for name in ("val_select", "test"):
        rows = night.splits.dataset(data, name).sent_by(sender_of(settings.calibrate_scrc))
        images = sent_hashes(rows, settings.preprocess, lambda *_: None, name)
        kept.keep(
            Score(image=image, score=0.1 + 0.8 * int(row.label), ms=20.0)
            for image, row in zip(images, rows.rows, strict=True)
        )
    noted = Noted()
    states: dict[str, str] = {}
    noted.stage = lambda name, state: states.update({name: state})  # type: ignore[method-assign]
    again = run_night(
        night.data,
        workspace=home / "w",
        store=home / "s",
        config=settings,
        last="eval_selective",
        progress=noted,
        now=lambda: NOW,
    )
    assert states.pop("eval_selective") == "done"
    assert {states[name] for name in ("train_supervised", "export", "calibrate_scrc")} == {"cached"}
    [cascade] = CascadeFile.read(again.run / "cascade.json").cascades
    assert (cascade.server, cascade.model, cascade.rows) == (
        "yolo",
        "yolox, version 1",
        len(night.splits.sets["test"].ids),
    )
    assert cascade.point("all_to_stage2").accuracy.value == 1.0
    assert "The whole cascade, with yolo" in (again.run / "report.html").read_text()
    # What is kept of a server beside the bundles decides nothing of a bundle, so that it stops no night either.
    (kept.directory / SCORES).write_text('{"schema_version":1,"image":"none","score":7,"ms":1}\n')
    last = run_night(
        night.data, workspace=home / "w", store=home / "s", config=settings, last="eval_selective", now=lambda: NOW
    )
    assert CascadeFile.read(last.run / "cascade.json").cascades == ()
    page = (last.run / "report.html").read_text()
    assert "The whole cascade is left out" in page
    assert str(kept.directory / SCORES) in page
    assert "No Stage-2 server has been asked" not in page


def test_what_trains_sees_views_of_the_stream_and_what_judges_features_sees_it_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(write_scenes(tmp_path / "scenes", scenes=120))
    noted, send, view = Noted(), StreamSender.__call__, ChallengeViews.__call__
    views: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def sending(self: StreamSender, name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        noted.sent[noted.now].add(name)
        return send(self, name, content, settings)

    def viewing(self: ChallengeViews, rows: Sequence[int], seeds: Sequence[int]) -> Pixels:
        views[noted.now] += [(self.stream, self.data.ids[row]) for row in rows]
        return view(self, rows, seeds)

    monkeypatch.setattr(StreamSender, "__call__", sending)
    monkeypatch.setattr(ChallengeViews, "__call__", viewing)
    chosen = config(
        calibrate_scrc__stream="challenges-2026-04",
        adapt_domain__enabled=True,
        adapt_domain__epochs=1,
        adapt_domain__head_steps=0,
        train_conformal_risk__enabled=True,
        train_conformal_risk__steps=2,
        train_conformal_risk__views=3,
    )
    outcome = run_night(
        tmp_path / "scenes",
        workspace=tmp_path / "w",
        store=tmp_path / "s",
        config=chosen,
        last="train_conformal_risk",
        progress=noted,
        now=lambda: NOW,
    )
    rows = {name: sorted(part.ids) for name, part in Splits.read(outcome.run / "splits.json").sets.items()}
    assert sorted(views["train_conformal_risk"]) == sorted(
        ("challenges-2026-04", row) for row in rows["train"] for _ in range(3)
    )
    assert noted.sent["adapt_domain"] == {*rows["train"], *rows["val_select"]}
    # Decoded before, and read from the disk.
    assert noted.sent["train_conformal_risk"] == set()


CHANGES: tuple[dict[str, object], ...] = (
    {"calibrate_scrc__stream": "challenges-2026-04"},
    {"calibrate_scrc__stream_weights": {"challenges-2026-01": 1.0}},
    {"calibrate_scrc__seed": 7},
)


TRAINED = {"adapt_domain", "race", "train_supervised", "train_conformal_risk", "train_ablations"}
# Everything that trains, and by pictures as they are sent.
SWITCHED_ON = {"adapt_domain__enabled": True, "train_conformal_risk__enabled": True, "learn__review": True}


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: next(iter(changes)))
def test_a_changed_stream_makes_every_stage_that_sees_it_run_again(changes: dict[str, object]) -> None:
    """What comes after them has their outcome in its key; splits see originals, and stay."""
    changed = changed_stages(config(**SWITCHED_ON), config(**SWITCHED_ON, **changes))
    assert changed == TRAINED | {"screen", "calibrate_scrc", "compare_training", "eval_selective", "publish"}


@pytest.mark.parametrize("geometry", ["crop", "letterbox"])
def test_another_geometry_makes_every_stage_that_decodes_pictures_by_it_run_again(geometry: str) -> None:
    """What comes after export reads the setting from its files; what is left out does not depend on it."""
    changed = changed_stages(config(**SWITCHED_ON), config(**SWITCHED_ON, preprocess__geometry=geometry))
    assert changed == TRAINED | {"export", "calibrate_scrc", "eval_selective", "publish"}
    needed = {stage.name: stage.needs for stage in stages()}
    assert all("export" in needed[name] for name in ("screen", "calibrate_scrc", "eval_selective"))

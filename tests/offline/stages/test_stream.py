"""What a night sends through the stream that it certifies, and what stays as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.store.file_names import CALIBRATION
from engines.store.golden import read_golden
from engines.store.stage2_scores import SCORES, Score, ScoredServer, scores_of
from offline.certify.calibration_record import CalibrationRecord
from offline.config import RunConfig, load_config
from offline.data.dataset import Dataset
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
from offline.stream.sender import sender_of
from stage1.certificate.params import ScrcParams
from stage1.preprocess import Pixels
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


@dataclass(frozen=True)
class Night:
    """A night."""

    data: Path
    outcome: NightOutcome

    @property
    def splits(self) -> Splits:
        return Splits.read(self.outcome.run / "splits.json")


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    home = tmp_path_factory.mktemp("stream")
    list(write_scenes(home / "scenes", scenes=120))
    outcome = run_night(
        home / "scenes",
        workspace=home / "w",
        store=home / "s",
        config=config(),
        last="eval_selective",
        now=lambda: NOW,
    )
    return Night(home / "scenes", outcome)


@pytest.mark.parametrize("name", ["val_select", "val_calib"])
def test_the_engine_saw_rows_that_choose_and_certify_as_they_are_sent(night: Night, name: str) -> None:
    run, settings = night.outcome.run, config()
    said = CalibrationRecord.read(run / CALIBRATION).outputs(run)[name].outputs
    record = CalibrationRecord.read(run / CALIBRATION)
    rows = read_dataset(night.data).pick([one.row for one in getattr(record, name)])
    engine = OnnxEngine(run / "model.onnx", threads=1)

    def scores(seen: Dataset) -> list[float]:
        return list(engine.infer(seen.array(settings.preprocess)).roadwork_score)

    sent, originals = scores(rows.sent_by(sender_of(settings.calibrate_scrc))), scores(rows)
    engine.close()
    assert list(said.roadwork_score) == pytest.approx(sent, abs=1e-4)
    assert list(said.roadwork_score) != pytest.approx(originals, abs=1e-2)


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
    states: dict[str, str] = {}
    noted = Silence()
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


def test_what_trains_sees_views_of_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(write_scenes(tmp_path / "scenes", scenes=120))
    view, views, now = ChallengeViews.__call__, list[tuple[str, str]](), [""]
    told = Silence()
    told.stage = lambda name, state: now.append(name if state == "running" else "")  # type: ignore[method-assign]

    def viewing(self: ChallengeViews, rows: Sequence[int], seeds: Sequence[int]) -> Pixels:
        if now[-1] == "train_conformal_risk":
            views.extend((self.stream, self.data.ids[row]) for row in rows)
        return view(self, rows, seeds)

    monkeypatch.setattr(ChallengeViews, "__call__", viewing)
    chosen = config(
        calibrate_scrc__stream="challenges-2026-04",
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
        progress=told,
        now=lambda: NOW,
    )
    train = Splits.read(outcome.run / "splits.json").sets["train"].ids
    assert sorted(views) == sorted(("challenges-2026-04", row) for row in train for _ in range(3))


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

"""A night that learns from a teacher: what it asks, what it never asks, and what it refuses."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.store.store import Store
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.data.known_rows import NotedRow
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import draw_frame
from offline.errors import TrainingError
from offline.learning.adapter_file import AdapterDescription
from offline.learning.distillation.teacher import answers_of
from offline.learning.supervised.record import TrainingRecord
from offline.night import stages
from offline.pipeline.choice import Choice
from offline.pipeline.progress import Silence
from offline.pipeline.runner import Pipeline
from offline.splits.splits_file import Splits
from offline.stages.common import taught_rows
from tests.support.scenes import scene_picture, write_labelled_scenes
from tests.support.small_nights import small_night

SCENES, MORE = 56, 5


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory, and pictures without labels, of which one looks like each row."""
    home = tmp_path_factory.mktemp("teacher")
    write_labelled_scenes(home / "data", SCENES)
    (home / "more").mkdir()
    for number in range(SCENES):
        scene_picture(number).save(home / "more" / f"like{number}.jpg", quality=60)
    for number in range(MORE):
        draw_frame(plan_scene(1000 + number, seed=2, difficulty=0.1), 0).save(home / "more" / f"new{number}.jpg")
    (home / "more" / "torn.jpg").write_bytes(b"no picture")
    return home


def night(home: Path, workspace: Path, chosen: RunConfig, last: str = "train_supervised") -> Path:
    now = lambda: datetime(2026, 1, 1, tzinfo=UTC)  # noqa: E731
    rows = read_dataset(home / "data")
    return Pipeline(stages(), workspace, Store(workspace / "store"), rows, chosen, now, Silence()).run(
        Choice(only=last)
    )


@pytest.fixture(scope="module")
def teacher(home: Path) -> Path:
    """A run with a graph."""
    return night(home, home / "workspace", small_night(), "export")


def test_a_run_teaches_rows_that_train_and_pictures_without_labels_and_no_row_that_judges(
    home: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answers = answers_of

    def noted(models: Any, rows: Dataset, progress: Any) -> Any:
        asked.extend(rows.ids)
        return answers(models, rows, progress)

    monkeypatch.setattr(taught_rows, "answers_of", noted)
    chosen = small_night(**{"learn.teacher": str(teacher), "learn.teacher_images": [str(home / "more")]})
    run = night(home, home / "workspace", chosen)
    found = TrainingRecord.read(run / "training.json").teacher
    splits = Splits.read(run / "splits.json")
    train = splits.sets["train"].ids
    # What looks like a row that trains may be seen, what looks like one that judges may not.
    assert found is not None
    assert (found["taught"], found["unlabelled"]) == (len(train), MORE + len(train))
    assert found["left_out"] == SCENES - len(train) + 1
    judging = {row for name in ("val_select", "val_calib", "test") for row in splits.sets[name].ids}
    assert not judging & set(asked)
    assert set(train) <= set(asked)
    # What the teacher has learned from may certify nothing that starts from this adapter.
    assert set(train) <= {noted.row for noted in AdapterDescription.read(run / "adapter.json").chose}
    # Another training than without a teacher.
    assert (run / "adapter.safetensors").read_bytes() != (teacher / "adapter.safetensors").read_bytes()


def test_a_table_of_verdicts_teaches_what_it_names_and_is_not_heard_on_rows_that_judge(
    home: Path, teacher: Path, tmp_path: Path
) -> None:
    splits = Splits.read(teacher / "splits.json")
    named = {
        "train": home / "data" / splits.sets["train"].ids[0],
        "calib": home / "data" / splits.sets["val_calib"].ids[0],
        "new": home / "more" / "new0.jpg",
    }
    for name, path in named.items():
        shutil.copyfile(path, tmp_path / f"{name}.jpg")
    (tmp_path / "verdicts.csv").write_text("image,probability\ntrain.jpg,0.9\ncalib.jpg,0.9\nnew.jpg,0.1\n")
    run = night(home, home / "workspace", small_night(**{"learn.teacher": str(tmp_path / "verdicts.csv")}))
    found = TrainingRecord.read(run / "training.json").teacher
    assert found is not None
    assert (found["taught"], found["unlabelled"], found["left_out"]) == (1, 1, 1)


def test_a_teacher_that_has_learned_from_rows_that_certify_here_is_refused(home: Path, tmp_path: Path) -> None:
    other = night(home, tmp_path, small_night(**{"splits.seed": 7}), "splits")
    shutil.copytree(other, tmp_path / "teacher")
    (tmp_path / "teacher" / "model.onnx").write_bytes(b"never opened")
    with pytest.raises(TrainingError, match=r"learned from \d+ rows that certify or report here"):
        night(home, home / "workspace", small_night(**{"learn.teacher": str(tmp_path / "teacher")}))
    (tmp_path / "teacher" / "splits.json").unlink()
    with pytest.raises(TrainingError, match="does not say what it was trained on"):
        night(home, home / "workspace", small_night(**{"learn.teacher": str(tmp_path / "teacher")}))


def test_a_teacher_whose_adapter_has_learned_from_such_rows_before_is_refused(
    home: Path, teacher: Path, tmp_path: Path
) -> None:
    """What it started from, or who taught it, stands in the description of its adapter and not in its splits."""
    (tmp_path / "model.onnx").write_bytes(b"never opened")
    shutil.copyfile(teacher / "splits.json", tmp_path / "splits.json")
    about = AdapterDescription.read(teacher / "adapter.json")
    calib = Splits.read(teacher / "splits.json").sets["val_calib"].ids[0]
    about.model_copy(update={"chose": (*about.chose, NotedRow(row=calib))}).write(tmp_path / "adapter.json")
    with pytest.raises(TrainingError, match="learned from 1 rows that certify or report here"):
        night(home, home / "workspace", small_night(**{"learn.teacher": str(tmp_path)}))

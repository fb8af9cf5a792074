"""A night reads its data once: what changes on the disk meanwhile changes nothing of it, and is never half of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.store.file_names import PAGE
from engines.store.store import Store
from offline.config import RunConfig, load_config
from offline.data.sources.source import SOURCES, read_dataset
from offline.data.sources.synthetic_streets import write_scenes
from offline.errors import DatasetError
from offline.evaluation.training_comparison import TrainingComparison
from offline.night import run_night, stages, with_contents
from offline.pipeline.progress import Silence
from offline.pipeline.run_files import COMPARISON
from offline.report.training_section import NOT_COMPARED, comparison_section
from offline.splits.splits_file import Splits
from offline.stages.common.seen_rows import LABELLED, RowsOf
from stage1.errors import SettingsError

SCENES = 120
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def config() -> RunConfig:
    quick: dict[str, Any] = {
        "preprocess.size_px": 64,
        "model.backbone.layers": 2,
        "train_supervised.epochs": 1,
        "compare_training.baseline": False,
        "compare_training.repetitions": 5,
        "splits.hash_distance": None,
        # After one epoch it says nothing.
        "gate.least_mcc": -1,
    }
    return load_config("tiny", None, quick)


class Flips(Silence):
    """Turns every label of the file around as soon as a stage is done."""

    def __init__(self, labels: Path, after: str) -> None:
        self.labels = labels
        self.after = after
        self.flipped = 0

    def stage(self, name: str, state: str) -> None:
        if (name, state) == (self.after, "done"):
            head, *rows = self.labels.read_text().splitlines()
            column = head.split(",").index("label")
            cells = [row.split(",") for row in rows]
            turned = [[*row[:column], str(1 - int(row[column])), *row[column + 1 :]] for row in cells]
            self.labels.write_text("\n".join([head, *(",".join(row) for row in turned)]))
            self.flipped = len(turned)


class Opened:
    """How often a file is opened in this process."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.times = 0
        self.counting = True
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.counting and event == "open" and str(arguments[0]).endswith(self.name):
            self.times += 1


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    list(write_scenes(tmp_path / "scenes", scenes=SCENES))
    return tmp_path / "scenes"


def test_labels_that_are_flipped_after_the_split_are_not_calibrated_on(scenes: Path, tmp_path: Path) -> None:
    before = with_contents(read_dataset(scenes), tmp_path / "w")
    flips, opened = Flips(scenes / "labels.csv", "splits"), Opened("labels.csv")
    outcome = run_night(
        scenes, workspace=tmp_path / "w", store=tmp_path / "s", config=config(), progress=flips, now=lambda: NOW
    )
    opened.counting = False
    assert flips.flipped == len(before)
    # Once by the night, and twice by this test, which reads and writes it.
    assert opened.times == 1 + 2
    assert outcome.publication is not None
    bundle = Store(tmp_path / "s").verify(outcome.publication.bundle)
    assert bundle.provenance.data_sha256 == before.sha256
    assert Splits.read(outcome.run / "splits.json").data_sha256 == before.sha256
    truth = {row.image: row.label for row in before.rows}
    report = json.loads((outcome.run / "report.json").read_text())
    assert all(truth[mistake["row"]] == mistake["label"] for mistake in report["mistakes"])


class Stages(Silence):
    """Keeps which stages ran, in order."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def stage(self, name: str, state: str) -> None:
        if state == "running":
            self.ran.append(name)


def test_the_verdict_is_there_before_what_only_reports_is_trained(scenes: Path, tmp_path: Path) -> None:
    """What the report sets beside the model costs more than the model, and may be killed or take too long."""
    told, at = Stages(), list[tuple[str, list[str]]]()
    outcome = run_night(
        scenes,
        workspace=tmp_path / "w",
        store=tmp_path / "s",
        config=config(),
        progress=told,
        now=lambda: NOW,
        on_published=lambda publication: at.append((publication.bundle, list(told.ran))),
    )
    [(bundle, before)] = at
    assert outcome.publication is not None
    assert (bundle, before[-1]) == (outcome.publication.bundle, "publish")
    assert told.ran[len(before) :] == ["train_ablations", "compare_training"]
    of_run = (outcome.run / PAGE).read_text()
    assert NOT_COMPARED in (Store(tmp_path / "s").path(bundle) / PAGE).read_text()
    assert NOT_COMPARED not in of_run
    assert comparison_section(TrainingComparison.read(outcome.run / COMPARISON)) in of_run


def test_the_next_night_sees_what_changed(scenes: Path, tmp_path: Path) -> None:
    night: Callable[..., Any] = lambda: run_night(  # noqa: E731
        scenes, workspace=tmp_path / "w", store=tmp_path / "s", config=config(), last="splits", now=lambda: NOW
    )
    first = night().run
    Flips(scenes / "labels.csv", "splits").stage("splits", "done")
    second = night().run
    assert first != second
    assert Splits.read(second / "splits.json").data_sha256 == with_contents(read_dataset(scenes), tmp_path / "w").sha256


def test_what_came_of_a_night_says_which_rows_were_left_out(scenes: Path, tmp_path: Path) -> None:
    (scenes / "broken.jpg").write_bytes(b"no picture")
    with (scenes / "labels.csv").open("a") as handle:
        head = (scenes / "labels.csv").read_text().splitlines()[0].split(",")
        known = {"image": "broken.jpg", "label": "1", "group": "broken"}
        handle.write(",".join(known.get(name, "") for name in head) + "\n")
    notes = run_night(
        scenes, workspace=tmp_path / "w", store=tmp_path / "s", config=config(), last="splits", now=lambda: NOW
    ).notes
    assert any(note.startswith("unreadable: 1 rows") and "'broken.jpg'" in note for note in notes)


def test_data_that_are_not_there_are_told_of_before_a_hub_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever mistypes a directory must not be sent for a licence first."""

    def asked(*_: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("offline.night.check_backbone", asked)
    with pytest.raises(DatasetError, match="roads: no such directory"):
        run_night(tmp_path / "roads", workspace=tmp_path / "w", store=tmp_path / "s", config=load_config("standard"))


def test_splits_of_other_data_are_refused(scenes: Path, tmp_path: Path) -> None:
    """A stage that is handed data and splits that do not belong together stops, whatever put them there."""
    run = run_night(
        scenes, workspace=tmp_path / "w", store=tmp_path / "s", config=config(), last="splits", now=lambda: NOW
    ).run
    data = with_contents(read_dataset(scenes), tmp_path / "w")
    calib = Splits.read(run / "splits.json").sets["val_calib"].ids[0]
    seen = RowsOf({"val_calib": LABELLED})
    assert len(seen(data, {"splits": run}).pick([calib]))
    rows = tuple(row.model_copy(update={"label": 1 - row.label}) if row.image == calib else row for row in data.rows)
    told = r"not the data that were split.*a label, a row or a group has changed since; run again from splits"
    with pytest.raises(DatasetError, match=told):
        seen(replace(data, rows=rows), {"splits": run})


def test_the_hash_of_the_data_is_taken_when_they_are_read(scenes: Path) -> None:
    data = read_dataset(scenes)
    picture = scenes / data.rows[0].image
    picture.write_bytes(picture.read_bytes() + b"\0")
    assert data.sha256 != read_dataset(scenes).sha256


def test_the_stages_have_the_names_of_their_files() -> None:
    assert [stage.name for stage in stages()] == [stage.run.__module__.rpartition(".")[2] for stage in stages()]


def test_an_unknown_preset_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(SettingsError, match="no preset is called 'large'; there are standard, tiny"):
        load_config("large")


HARVESTED = """
from offline.data.dataset import Row


class Harvested:
    train_only = True

    def __init__(self, path):
        self.name = str(path)
        self.path = path

    def rows(self):
        return [Row(image=line, label=1, group=line) for line in self.path.read_text().split()]


SOURCE = Harvested
"""


def test_another_source_of_images_is_one_file_and_one_line(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "harvested_source.py").write_text(HARVESTED)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SOURCES, "harvested.txt", "harvested_source")
    alone = read_dataset(scenes)
    (scenes / "new.jpg").write_bytes((scenes / alone.rows[0].image).read_bytes())
    (scenes / "harvested.txt").write_text("new.jpg")
    both = read_dataset(scenes)
    assert both.ids == [*alone.ids, "new.jpg"]
    assert [row.train_only for row in both.rows] == [False] * len(alone) + [True]
    outcome = run_night(
        scenes, workspace=tmp_path / "w", store=tmp_path / "s", config=config(), last="splits", now=lambda: NOW
    )
    homes = {row: name for name, part in Splits.read(outcome.run / "splits.json").sets.items() for row in part.ids}
    assert homes.get("new.jpg", "train") == "train"
    (scenes / "harvested.txt").write_text(alone.ids[0])
    with pytest.raises(DatasetError, match=r"harvested\.txt: .* is listed twice"):
        read_dataset(scenes)

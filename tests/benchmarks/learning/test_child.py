"""A unit from drawn scenes to its result, through the stages of a night."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning.data.photographs import PhotographSizes
from benchmarks.learning.data.scenes import SceneSizes
from benchmarks.learning.table.report import TaskResults, best_row, report
from benchmarks.learning.units.adaptation import (
    AdaptationSizes,
    adaptation_settings,
    adapted_backbone,
    arrival,
    teacher_share,
)
from benchmarks.learning.units.child import run_unit
from benchmarks.learning.units.place import AllSizes, Place
from benchmarks.learning.units.results import UnitResult, outdated, read_results, result_path, write_result
from benchmarks.learning.units.rows import row_called
from benchmarks.learning.units.unit import Sizes, Unit
from benchmarks.learning.units.unit_queue import UnitQueue
from stage1.artifacts import write_atomic
from stage1.model.backbones import build
from stage1.model.settings import PretrainedBackbone

SMALLEST = AllSizes(
    Sizes(epochs=1, steps=1, last_layers=1, views=1),
    PhotographSizes(),
    SceneSizes(scenes=(24, 12, 12, 12), unlabelled=8, scale=1),
    AdaptationSizes(steps=4, batch=4),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("learning"), None, None, SMALLEST)


@pytest.fixture(scope="module")
def trained(place: Place) -> UnitResult:
    return run_unit(place, Unit("scenes", row_called("lora"), 0, 0))


def test_a_unit_answers_every_row_of_its_sets(place: Place, trained: UnitResult) -> None:
    fold = place.tasks["scenes"].folds[0]
    parts = {row.image: row.metadata["part"] for row in fold.rows}
    for name in ("val_select", "val_calib", "test"):
        assert set(trained.answers[name].rows) == {row for row, part in parts.items() if part == name}
    assert trained.refused == ""
    assert trained.cpu_s > 0
    assert trained.memory_mib > 100


def test_nothing_but_the_result_is_left_of_a_unit(place: Place, trained: UnitResult) -> None:
    assert not (place.home / "work" / trained.unit).exists()


def test_a_result_is_read_again_and_one_that_was_cut_off_is_not(place: Place, trained: UnitResult) -> None:
    path = result_path(place.home, trained.unit, trained.key)
    write_result(place.home, trained)
    keys = {trained.unit: trained.key}
    assert read_results(place.home, keys) == {trained.unit: trained}
    assert list(outdated(place.home, {})) == [path]
    write_atomic(path, path.read_bytes()[:-50])
    assert read_results(place.home, keys) == {}
    trained.write(path)


def test_what_is_done_is_not_started_again_and_nothing_is_after_the_hours(place: Place, trained: UnitResult) -> None:
    write_result(place.home, trained)
    unit = Unit("scenes", row_called("lora"), 0, 0)
    assert UnitQueue(place, hours=1).run([unit]) == []
    assert UnitQueue(place, hours=0).run(place.units()) == []
    assert not (place.home / "logs").exists()


def test_a_report_names_what_is_missing_and_what_is_refused(place: Place, trained: UnitResult) -> None:
    units = [unit for unit in place.units() if unit.row.name in {"baseline", "lora", "tiles"}]
    task = TaskResults("scenes", units, {trained.unit: trained}, {"tiles": "geometry: no such thing"})
    text = report(task)
    assert "LoRA + AdamW: 4 of 5 units are missing" in text
    assert "LoRA, tiles: refused: geometry: no such thing" in text
    assert best_row(task) == ""


def test_the_teacher_comes_most_of_the_way_whatever_the_number_of_steps() -> None:
    for steps in (40, 240, 2000):
        settings = adaptation_settings(400, AdaptationSizes(steps=steps))
        assert 0.9 < teacher_share(settings, 400) < 1


def test_a_teacher_with_the_momentum_of_long_trainings_hardly_moves() -> None:
    settings = adaptation_settings(64, AdaptationSizes(steps=36, batch=64))
    assert teacher_share(settings.model_copy(update={"momentum": 0.992, "head_steps": 18}), 64) < 0.2


def test_a_report_says_how_far_a_teacher_came(tmp_path: Path) -> None:
    (tmp_path / "adapted.json").write_text('{"epoch": 20.0, "teacher_way": 0.9, "student_way": 1.2}')
    told = arrival(tmp_path, adaptation_settings(400, AdaptationSizes()), 400)
    assert told.startswith("ExPLoRA's teacher came 75% as far as its student")


def test_a_backbone_is_adapted_once_and_can_be_loaded(place: Place) -> None:
    unit = Unit("scenes", row_called("explora"), 0, 0)
    home, settings = place.adapted_home(unit), place.adaptation(unit)
    unlabelled = place.tasks["scenes"].unlabelled()
    made = adapted_backbone(home, place.base, settings, unlabelled, seed=0)
    assert build(
        place.base.model.model_copy(update={"backbone": PretrainedBackbone(name=str(made))}), shape=(32, 32), seed=0
    )
    before = (made / "model.safetensors").read_bytes()
    adapted_backbone(home, place.base, settings, unlabelled, seed=0)
    assert (made / "model.safetensors").read_bytes() == before
    assert arrival(made, settings, len(unlabelled))

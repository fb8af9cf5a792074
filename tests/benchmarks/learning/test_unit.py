"""The order of units, their settings and their keys."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.learning.data.task import in_parts
from benchmarks.learning.units.rows import BASELINE, REFERENCE, ROWS, Row, row_called, settled
from benchmarks.learning.units.unit import Sizes, Unit, base_settings, key_of, ordered, settings_of
from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.data.dataset import Row as DataRow
from stage1.errors import SettingsError

TASKS = (("photographs", 4), ("scenes", 1))


def test_after_any_time_all_rows_of_a_task_have_about_equally_many_units() -> None:
    units = [unit for unit in ordered(TASKS) if unit.task == "photographs" and unit.seed < 3]
    rows = {unit.row.name for unit in units}
    count: Counter[str] = Counter()
    for unit in units:
        count[unit.row.name] += 1
        assert max(count.values()) - min(count[row] for row in rows) <= 1


def test_baseline_lora_and_the_winner_get_five_seeds_and_the_others_three() -> None:
    units = ordered(TASKS, {"scenes": "doran"})
    seeds = {(task, row.name): 0 for task, _ in TASKS for row in ROWS}
    for unit in units:
        seeds[unit.task, unit.row.name] = max(seeds[unit.task, unit.row.name], unit.seed + 1)
    assert {row for (task, row), number in seeds.items() if task == "scenes" and number == 5} == {
        BASELINE,
        REFERENCE,
        "doran",
    }
    assert seeds["photographs", "doran"] == 3
    assert seeds["photographs", "tiles"] == 0


def test_every_unit_is_there_once() -> None:
    names = [unit.name for unit in ordered(TASKS)]
    assert len(names) == len(set(names))


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_a_setting_that_does_not_exist_refuses_a_row_with_its_name() -> None:
    with pytest.raises(SettingsError, match="made_up: Extra inputs"):
        settled(RunConfig(), Row("made", "made", {"made_up.nothing": "auto"}))


def test_a_setting_that_is_only_named_where_there_is_a_choice_is_left_out_where_there_is_none() -> None:
    row = Row("made", "made", {"model.rank": 4}, {"model.no_such_choice": "this"})
    assert settled(RunConfig(), row).model.rank == 4


def test_a_value_that_is_wrong_is_not_left_out() -> None:
    with pytest.raises(SettingsError, match="rank"):
        settled(RunConfig(), Row("made", "made", {}, {"model.rank": -1}))


def test_a_key_tells_settings_data_and_seeds_apart(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a")
    rows = (DataRow(image="a.jpg", label=0, group="a"),)
    data = in_parts(Dataset(tmp_path, rows), {"a.jpg": "train"})
    other = in_parts(Dataset(tmp_path, rows), {"a.jpg": "test"})

    def key(unit: Unit, sizes: Sizes, data: Dataset) -> str:
        return key_of(unit, settings_of(unit, base_settings(None, sizes)), data)

    unit = Unit("scenes", row_called("lora"), 0, 0)
    keys = [
        key(unit, Sizes(), data),
        key(unit, Sizes(epochs=3), data),
        key(unit, Sizes(), other),
        key(Unit("scenes", row_called("lora"), 0, 1), Sizes(), data),
        key(Unit("scenes", row_called("dora"), 0, 0), Sizes(), data),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == key(unit, Sizes(), data)

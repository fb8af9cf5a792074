"""A setting that names what is not in the data is an error that says what there is."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from offline.config import load_config
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import unseen
from offline.errors import DatasetError
from offline.settings_and_data import check_settings_on_data
from stage1.errors import RowsError, SettingsError

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HEAD = {"column": "alteration", "classes": ["none", "active"]}


def data(**metadata: str) -> Dataset:
    more = {"tags.daytime": "day", "Alteration": "none"} | metadata
    return Dataset(Path("roads"), (Row(image="a.jpg", label=1, group="a", source="kaggle", metadata=more),))


def check(rows: Dataset, **changes: Any) -> None:
    check_settings_on_data(load_config("tiny", None, changes), rows, NOW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"splits.train_only": ["Kagle"]}, r"splits\.train_only: no row has the source 'Kagle'; there is kaggle"),
        (
            {"splits.strata": ["daytime", "wether"]},
            r"splits\.strata: no row has a value in a column 'wether'; there is alter",
        ),
        ({"splits.sequence_columns": ["drive"]}, r"splits\.sequence_columns: no row has a value in a column 'drive'"),
        ({"splits.difficulty": {"kind": "column"}}, r"splits\.difficulty\.column: no row .* 'difficulty'"),
        (
            {"calibrate_scrc.subgroups": "weather"},
            r"calibrate_scrc\.subgroups: no row has a value in a column 'weather'",
        ),
        (
            {"model.heads": {"h": {**HEAD, "column": "works"}}},
            r"model\.heads\.h\.column: no row has a value in 'works'",
        ),
        ({"model.heads": {"h": HEAD}, "calibrate_scrc.agreement": ["H"]}, r"agreement: no head .* 'H'; there is h"),
    ],
)
def test_a_name_that_matches_nothing_is_an_error_that_lists_what_there_is(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        check(data(), **changes)


def test_who_joins_rows_by_the_column_group_is_told_that_it_does_so_by_itself() -> None:
    with pytest.raises(SettingsError, match=r"splits\.sequence_columns: the column 'Group' joins its rows by itself"):
        check(data(), **{"splits.sequence_columns": ["Group"]})


def test_every_name_that_matches_nothing_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"train_only: .*; splits\.strata: "):
        check(data(), **{"splits.train_only": ["x"], "splits.strata": ["y"]})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"splits.train_only": ["kaggle"]},
        {"splits.train_only": ["Kaggle "]},
        {"splits.strata": ["Daytime"], "splits.sequence_columns": ["vid_id"]},
        {"calibrate_scrc.subgroups": "ALTERATION"},
        {"calibrate_scrc.subgroups": "Daytime"},
        {"calibrate_scrc.mode": "balanced"},
        {"model.heads": {"h": HEAD}, "calibrate_scrc.agreement": ["h"]},
    ],
)
def test_what_is_there_in_any_case_and_what_nobody_asked_for_are_no_errors(changes: dict[str, Any]) -> None:
    check(data(**{"more.alteration": "active"}), **changes)


def test_the_default_of_a_mode_that_needs_it_is_looked_at() -> None:
    rows = Dataset(Path("roads"), (Row(image="a.jpg", label=1, group="a"),))
    check(rows)
    with pytest.raises(SettingsError, match=r"calibrate_scrc\.subgroups: .* 'daytime'; there is none"):
        check(rows, **{"calibrate_scrc.mode": "balanced"})


def test_a_time_that_cannot_be_read_is_told_before_anything_runs() -> None:
    rows = data(gps="48,11", timestamp="10000")
    with pytest.raises(DatasetError, match="the timestamp is '10000'"):
        check(rows)
    check(rows, **{"splits.gps_cell_m": None})


@pytest.mark.parametrize("spelled", ["Time of Day", "time_of_day", "TIME_OF_DAY", "info.Time of Day"])
def test_a_column_that_passes_the_check_is_found_by_everything_that_reads_it(spelled: str) -> None:
    """Strata and ids ask the row, subgroups ask the columns of a set."""
    rows = data(**{"info.Time of Day": "dusk"})
    check(
        rows, **{"calibrate_scrc.subgroups": spelled, "splits.strata": [spelled], "splits.sequence_columns": [spelled]}
    )
    assert rows.rows[0].about(spelled) == rows.rows[0].sequence(spelled) == "dusk"
    assert unseen(rows).column(spelled).tolist() == ["dusk"]


@pytest.mark.parametrize("spelled", ["Day Time", "weather", "x.daytime", "aytime"])
def test_a_column_that_fails_the_check_is_found_by_nothing(spelled: str) -> None:
    with pytest.raises(SettingsError, match=r"calibrate_scrc\.subgroups: "):
        check(data(), **{"calibrate_scrc.subgroups": spelled})
    with pytest.raises(RowsError, match="no column"):
        unseen(data()).column(spelled)


def test_usual_columns_in_another_spelling_are_usual_ones() -> None:
    rows = Dataset(Path("roads"), (Row(image="a.jpg", label=1, group="a"),))
    check(rows, **{"splits.strata": ["Daytime"], "splits.sequence_columns": ["videoName"]})

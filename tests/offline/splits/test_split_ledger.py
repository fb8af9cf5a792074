"""The split ledger: what was written stays true, whatever a crash left behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.errors import DatasetError
from offline.splits.split_ledger import (
    SPLIT_LEDGER,
    Assignment,
    Home,
    Ledger,
    StrataCut,
    append_events,
    read_split_ledger,
)

AT = "2026-01-01T00:00:00+00:00"
CUT = StrataCut(strata_version=1, scorer="contrast", edges=(0.5,), at=AT)
A = Assignment(group="a", split="train", rows=("a0", "a1"), first_seen=AT, strata_version=1)
B = Assignment(group="b", split="val_calib", fold=1, rows=("b0",), first_seen=AT, strata_version=1)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / SPLIT_LEDGER
    assert read_split_ledger(path) == Ledger()
    append_events(path, [CUT, A])
    append_events(path, [B])
    ledger = read_split_ledger(path)
    assert ledger == Ledger().after([CUT, A, B])
    assert ledger.homes == {"a": Home("train"), "b": Home("val_calib", 1)}
    assert [ledger.home_of(row) for row in ("a1", "b0", "c0")] == [Home("train"), Home("val_calib", 1), None]
    assert ledger.cuts == {1: CUT}


def test_each_line_is_a_record_with_its_version(tmp_path: Path) -> None:
    append_events(tmp_path / SPLIT_LEDGER, [CUT, A, B])
    lines = [json.loads(line) for line in (tmp_path / SPLIT_LEDGER).read_text().splitlines()]
    assert [(line["schema_version"], line["event"]) for line in lines] == [(1, "strata"), (1, "assign"), (1, "assign")]
    assert lines[2] | {"event": ""} == {
        "schema_version": 1,
        "event": "",
        "group": "b",
        "split": "val_calib",
        "fold": 1,
        "rows": ["b0"],
        "first_seen": AT,
        "strata_version": 1,
    }


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    append_events(tmp_path / SPLIT_LEDGER, [])
    assert not (tmp_path / SPLIT_LEDGER).exists()


def test_a_line_that_a_crash_cut_short_says_nothing_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / SPLIT_LEDGER
    append_events(path, [CUT, A])
    for length in range(1, len(A.model_dump_json())):
        path.write_bytes((CUT.model_dump_json() + "\n" + A.model_dump_json()[:length]).encode())
        assert read_split_ledger(path) == Ledger().after([CUT])
        append_events(path, [A, B])
        assert read_split_ledger(path) == Ledger().after([CUT, A, B])


def test_later_rows_of_a_group_belong_to_it() -> None:
    ledger = Ledger().after([A]).after([A.model_copy(update={"rows": ("a2",)})])
    assert ledger.groups == {"a0": "a", "a1": "a", "a2": "a"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (A.model_copy(update={"split": "test"}), "group 'a' in Home"),
        (B.model_copy(update={"fold": 0}), "group 'b' in Home"),
        (B.model_copy(update={"rows": ("a0",)}), "row 'a0' in group 'a' and in group 'b'"),
        (CUT.model_copy(update={"edges": (0.4,)}), "strata of version 1 twice"),
    ],
)
def test_a_ledger_that_contradicts_itself_is_refused(event: Assignment | StrataCut, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Ledger().after([CUT, A, B, event])


@pytest.mark.parametrize("change", [{"schema_version": 9}, {"event": "moved"}, {"split": "holdout"}])
def test_a_line_of_another_kind_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / SPLIT_LEDGER
    append_events(path, [CUT])
    with path.open("a") as handle:
        handle.write(json.dumps(json.loads(A.model_dump_json()) | change) + "\n")
    with pytest.raises(DatasetError, match=r"ledger\.jsonl, line 2: "):
        read_split_ledger(path)

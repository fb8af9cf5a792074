"""The split ledger: what was written stays true, whatever a crash left behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from offline.errors import DatasetError
from offline.splits.old_split_ledger import take_over_splits
from offline.splits.split_ledger import (
    SPLIT_LEDGER,
    Assignment,
    Home,
    Ledger,
    PlacedRow,
    StrataCut,
    append_events,
    read_split_ledger,
)

AT = "2026-01-01T00:00:00+00:00"
CUT = StrataCut(strata_version=1, scorer="contrast", edges=(0.5,), at=AT)


def placed(*rows: str) -> tuple[PlacedRow, ...]:
    return tuple(PlacedRow(row=row, sha256=row * 32, label=1) for row in rows)


A = Assignment(group="a", split="train", rows=placed("a0", "a1"), first_seen=AT, strata_version=1)
B = Assignment(group="b", split="val_calib", fold=1, rows=placed("b0"), first_seen=AT, strata_version=1)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / SPLIT_LEDGER
    assert read_split_ledger(path) == Ledger()
    append_events(path, [CUT, A])
    append_events(path, [B])
    ledger = read_split_ledger(path)
    assert ledger == Ledger().after([CUT, A, B])
    assert ledger.homes == {"a": Home("train"), "b": Home("val_calib", 1)}
    assert [ledger.home_of(row) for row in ("a1", "b0", "c0")] == [Home("train"), Home("val_calib", 1), None]
    assert ledger.cuts == {(1, "contrast", 2): CUT}


def test_each_line_is_a_record_with_its_version(tmp_path: Path) -> None:
    append_events(tmp_path / SPLIT_LEDGER, [CUT, A, B])
    lines = [json.loads(line) for line in (tmp_path / SPLIT_LEDGER).read_text().splitlines()]
    assert [(line["schema_version"], line["event"]) for line in lines] == [(2, "strata"), (2, "assign"), (2, "assign")]
    assert lines[2]["previous"] == lines[1]["seal"]
    assert {key: value for key, value in lines[2].items() if key not in {"event", "previous", "seal"}} == {
        "schema_version": 2,
        "group": "b",
        "split": "val_calib",
        "fold": 1,
        "rows": [{"row": "b0", "sha256": "b0" * 32, "label": 1}],
        "first_seen": AT,
        "strata_version": 1,
        "chained": False,
    }


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    append_events(tmp_path / SPLIT_LEDGER, [])
    assert not (tmp_path / SPLIT_LEDGER).exists()


def test_a_line_that_a_crash_cut_short_says_nothing_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / SPLIT_LEDGER
    append_events(path, [CUT, A])
    whole = path.read_bytes()
    cut = len(whole.splitlines(keepends=True)[0])
    for length in range(cut + 1, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert read_split_ledger(path) == Ledger().after([CUT])
        append_events(path, [A, B])
        assert read_split_ledger(path) == Ledger().after([CUT, A, B])


def test_later_rows_of_a_group_belong_to_it() -> None:
    ledger = Ledger().after([A]).after([A.model_copy(update={"rows": placed("a2")})])
    assert ledger.groups == {"a0": "a", "a1": "a", "a2": "a"}


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (A.model_copy(update={"split": "test"}), "group 'a' in Home"),
        (B.model_copy(update={"fold": 0}), "group 'b' in Home"),
        (B.model_copy(update={"rows": placed("a0")}), "row 'a0' in group 'a' and in group 'b'"),
        (CUT.model_copy(update={"edges": (0.4,)}), "strata of version 1 twice into 2 bins by 'contrast'"),
    ],
)
def test_a_ledger_that_contradicts_itself_is_refused(event: Assignment | StrataCut, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Ledger().after([CUT, A, B, event])


def test_a_row_is_known_by_its_content_first_then_by_its_path() -> None:
    ledger = Ledger().after([CUT, A, B])
    assert ledger.group_of("elsewhere", "a0" * 32) == "a"
    assert ledger.group_of("b0", "a0" * 32) == "a"
    assert ledger.group_of("b0", "new" * 16) == ledger.group_of("b0", None) == "b"
    assert ledger.group_of("elsewhere", "new" * 16) is None
    named = ledger.in_names_of(["x", "b0", "y"], {"x": "a1" * 32, "b0": "b0" * 32})
    assert named.groups == {"x": "a", "b0": "b"}


def test_an_edited_line_is_told_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / SPLIT_LEDGER
    append_events(path, [CUT, A, B])
    path.write_text(path.read_text().replace('"val_calib"', '"train"'))
    with pytest.raises(DatasetError, match=r"ledger\.jsonl, line 3: the line was changed .* restore it from a backup"):
        read_split_ledger(path)


# Written by the program of version 1.
BEFORE = """\
{"schema_version":1,"event":"strata","strata_version":1,"scorer":"contrast","edges":[0.5],"at":"2026-01-01T00:00:00+00:00"}
{"schema_version":1,"event":"assign","group":"a","split":"train","fold":null,"rows":["a0","a1"],\
"first_seen":"2026-01-01T00:00:00+00:00","strata_version":1}
{"schema_version":1,"event":"assign","group":"b","split":"val_calib","fold":1,"rows":["b0","b1"],\
"first_seen":"2026-01-01T00:00:00+00:00","strata_version":1}
{"schema_version":1,"event":"ass"""


def test_a_ledger_of_version_1_is_taken_over_with_every_home(tmp_path: Path) -> None:
    path = tmp_path / SPLIT_LEDGER
    path.write_text(BEFORE)
    contents = {"a0": "a0" * 32, "a1": "a1" * 32, "b0": "b0" * 32, "new": "ff" * 32}
    assert take_over_splits(path, contents, {"a0": 1, "a1": 0, "b0": 1, "new": 1})
    ledger = read_split_ledger(path)
    assert ledger.homes == {"a": Home("train"), "b": Home("val_calib", 1)}
    assert ledger.groups == {"a0": "a", "a1": "a", "b0": "b", "b1": "b"}
    assert ledger.cuts == {(1, "contrast", 2): CUT}
    assert ledger.group_of("renamed", "a1" * 32) == "a"
    # What was gone that night is known by its path.
    assert ledger.placed["b1", None] == ("b", None)
    assert not take_over_splits(path, {}, {})
    assert path.with_name(f"{SPLIT_LEDGER}.v1").read_text() == BEFORE


@pytest.mark.parametrize("change", [{"schema_version": 9}, {"event": "moved"}, {"split": "holdout"}])
def test_a_line_of_another_kind_is_named(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / SPLIT_LEDGER
    append_events(path, [CUT])
    with path.open("a") as handle:
        handle.write(json.dumps(json.loads(A.model_dump_json()) | change) + "\n")
    with pytest.raises(DatasetError, match=r"ledger\.jsonl, line 2: "):
        read_split_ledger(path)

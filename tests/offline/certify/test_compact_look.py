"""Looks as changes of earlier ones: small, the same entries when they are read, and no less provable."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.certify.calibration_ledger import LEDGER, STORE_LOOKS, looks_of, read_certifications, record_look
from offline.certify.compact_look import CompactLook, FoldBook, LedgerEntry
from offline.data.chained_ledger import append_chain
from offline.errors import DatasetError

AT = "2026-01-01T00:00:00+00:00"


def look(night: int, rows: range) -> LedgerEntry:
    """A look at numbered rows, two to a group."""
    return LedgerEntry(
        key=f"night {night}",
        rows=tuple(sorted(f"images/{row:06d}.jpg" for row in rows)),
        contents=tuple(sorted(f"{row:064x}" for row in rows)),
        groups=tuple(sorted({f"drive {row // 2:06d}" for row in rows})),
        level=0.01,
        at=AT,
    )


def written(path: Path, entries: list[LedgerEntry]) -> list[LedgerEntry]:
    for entry in entries:
        record_look(path / "workspace", entry, path / "store")
    return entries


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path


def test_a_season_of_looks_is_read_as_it_was_written_and_grows_by_what_is_new(home: Path) -> None:
    # Rows come each night, and some go; every fifth night looks at another fold.
    nights = [look(n, range(n, 400 + 2 * n) if n % 5 else range(9000, 9300)) for n in range(30)]
    written(home, nights)
    assert read_certifications(home / "workspace") == nights
    assert looks_of(home / "store") == nights
    whole = sum(len(entry.model_dump_json()) for entry in nights)
    for file in (home / "workspace" / LEDGER, home / "store" / STORE_LOOKS):
        assert file.stat().st_size < whole / 8


def test_a_ledger_that_an_earlier_program_wrote_is_gone_on_with_line_by_line(home: Path) -> None:
    old = [look(n, range(100 + n)) for n in range(4)]
    path = home / "workspace" / LEDGER
    append_chain(path, old)
    before = path.read_bytes()
    new = written(home, [look(n, range(100 + n)) for n in range(4, 8)])
    assert read_certifications(home / "workspace") == [*old, *new]
    # What was sealed stays as it is, byte for byte.
    assert path.read_bytes().startswith(before)
    assert len(path.read_bytes()) < 1.5 * len(before)


def test_names_are_in_memory_once(home: Path) -> None:
    written(home, [look(n, range(50)) for n in range(3)])
    first, second, third = read_certifications(home / "workspace")
    assert first.rows is second.rows is third.rows


@pytest.mark.parametrize("change", ["row", "level", "base"])
def test_an_edited_compact_line_breaks_the_chain(home: Path, change: str) -> None:
    written(home, [look(n, range(50 + n)) for n in range(3)])
    path = home / "workspace" / LEDGER
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    match change:
        case "row":
            lines[1]["rows"]["plus"] = ["images/other.jpg"]
        case "level":
            lines[1]["level"] = 0.001
        case _:
            lines[2]["base"] = lines[0]["fold"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DatasetError, match="the line was changed after it was written"):
        read_certifications(home / "workspace")


def test_a_look_of_the_store_that_lost_its_base_or_was_edited_is_refused(home: Path) -> None:
    written(home, [look(n, range(50 + n)) for n in range(3)])
    path = home / "store" / STORE_LOOKS
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(DatasetError, match=r"looks\.jsonl: the look 'night 1' changes a fold that no line before it"):
        looks_of(home / "store")
    path.write_text("".join(lines).replace("images/000050.jpg", "images/other.jpg"))
    with pytest.raises(DatasetError, match="does not come to the fold that it names"):
        looks_of(home / "store")


def test_a_line_that_a_crash_cut_short_is_no_base(home: Path) -> None:
    written(home, [look(0, range(50))])
    for path in (home / "workspace" / LEDGER, home / "store" / STORE_LOOKS):
        path.write_bytes(path.read_bytes()[:-40])
    entries = written(home, [look(1, range(51))])
    assert read_certifications(home / "workspace") == entries
    assert looks_of(home / "store") == entries


NAMES = st.sets(st.text("abc", min_size=1, max_size=2), max_size=8).map(lambda names: tuple(sorted(names)))


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=12))
def test_any_looks_come_back(folds: list[tuple[tuple[str, ...], ...]]) -> None:
    entries = [
        LedgerEntry(key=str(number), rows=rows, contents=contents, groups=groups, at=AT)
        for number, (rows, contents, groups) in enumerate(folds)
    ]
    book = FoldBook()
    lines = [CompactLook.model_validate_json(book.compact(entry).model_dump_json()) for entry in entries]
    assert list(FoldBook().entries(lines, "here")) == entries

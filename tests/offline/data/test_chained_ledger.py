"""Ledgers that hang together: every edit is noticed, a crash is not one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from offline.data.chained_ledger import append_chain, read_chain, take_over
from offline.errors import DatasetError


class Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    text: str
    share: float = 0.1


class OldNote(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    text: str


NOTES = TypeAdapter(Note)
OLD = TypeAdapter(OldNote)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    append_chain(path, [Note(text="först"), Note(text="second", share=1e-9)])
    append_chain(path, [Note(text="third")])
    return path


def texts(path: Path) -> list[str]:
    return [note.text for note in read_chain(path, NOTES)]


def test_what_is_appended_is_read_and_each_line_names_the_one_before(ledger: Path) -> None:
    assert texts(ledger) == ["först", "second", "third"]
    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert [line["previous"] for line in lines] == ["0" * 64, lines[0]["seal"], lines[1]["seal"]]


def test_no_file_is_an_empty_ledger_and_nothing_to_say_writes_none(tmp_path: Path) -> None:
    append_chain(tmp_path / "notes.jsonl", [])
    assert read_chain(tmp_path / "notes.jsonl", NOTES) == []
    assert not (tmp_path / "notes.jsonl").exists()


EDITS: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "a word in the first line": (lambda all_: [all_[0].replace("först", "last"), *all_[1:]], "line 1: the line was"),
    "a word in the last line": (lambda all_: [*all_[:2], all_[2].replace("third", "3rd")], "line 3: the line was"),
    "the first line is gone": (lambda all_: all_[1:], "line 1: it does not follow"),
    "a line is gone": (lambda all_: [all_[0], all_[2]], "line 2: it does not follow"),
    "a line is there twice": (lambda all_: [all_[0], *all_], "line 2: it does not follow"),
    "two lines are swapped": (lambda all_: [all_[1], all_[0], all_[2]], "line 1: it does not follow"),
    "a line is made unreadable": (lambda all_: [all_[0], all_[1][:-3], all_[2]], "line 3: it does not follow"),
    "a line without a seal": (lambda all_: [*all_, '{"schema_version":2,"text":"more"}'], "line 4: the line was"),
    "a line of the version before": (lambda all_: [*all_, '{"schema_version":1,"text":"x"}'], "line 4: schema_version"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_told_by_its_line_and_with_what_to_do(ledger: Path, edit: str) -> None:
    change, message = EDITS[edit]
    ledger.write_text("\n".join(change(ledger.read_text().splitlines())) + "\n")
    with pytest.raises(DatasetError, match=rf"notes\.jsonl, {message}.*restore it from a backup, or start anew"):
        read_chain(ledger, NOTES)


def test_a_line_that_a_crash_cut_short_says_nothing_and_the_next_follows_the_one_before(ledger: Path) -> None:
    whole = ledger.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for length in range(1, len(last) - 1):
        ledger.write_bytes(whole[: len(whole) - len(last) + length])
        assert texts(ledger) == ["först", "second"]
        append_chain(ledger, [Note(text="again")])
        assert texts(ledger) == ["först", "second", "again"]


def test_a_ledger_of_the_version_before_is_taken_over_once_and_in_full(tmp_path: Path) -> None:
    path = tmp_path / "notes.jsonl"
    before = "".join(OldNote(text=text).model_dump_json() + "\n" for text in ("a", "b")) + '{"schema_ver'
    path.write_text(before)

    def renewed(old: list[OldNote]) -> list[BaseModel]:
        return [Note(text=f"{note.text}!") for note in old]

    assert take_over(path, OLD, 1, renewed)
    assert texts(path) == ["a!", "b!"]
    assert (tmp_path / "notes.jsonl.v1").read_text() == before
    append_chain(path, [Note(text="c")])
    content = path.read_bytes()
    assert not take_over(path, OLD, 1, renewed)
    assert path.read_bytes() == content


def test_there_is_nothing_to_take_over_where_there_is_no_ledger(tmp_path: Path) -> None:
    assert not take_over(tmp_path / "notes.jsonl", OLD, 1, list)
    assert list(tmp_path.iterdir()) == []

"""Append-only files: what a crash cut short says nothing, what somebody changed is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter

from offline.data.jsonl import read_records
from offline.errors import DatasetError


class Line(BaseModel):
    model_config = ConfigDict(extra="forbid")

    number: int


LINES = TypeAdapter(Line)


def test_an_absent_file_has_no_records(tmp_path: Path) -> None:
    assert read_records(tmp_path / "none.jsonl", LINES) == []


def test_whole_lines_are_read_in_order_and_broken_ones_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"number": 1}\n{"numb\n\n12\n\xff\xfe\n{"number": 2}\n{"number": 3')
    assert [line.number for line in read_records(tmp_path / "a.jsonl", LINES)] == [1, 2]


@pytest.mark.parametrize("line", ['{"number": "many"}', '{"other": 1}', "{}"])
def test_a_whole_line_of_another_kind_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_text(f'{{"number": 1}}\n{line}\n')
    with pytest.raises(DatasetError, match=r"a\.jsonl, line 2: "):
        read_records(tmp_path / "a.jsonl", LINES)

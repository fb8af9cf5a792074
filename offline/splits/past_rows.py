"""What bundles that are gone did with rows: kept in the store, each row once for each set that it was in.

A bundle names all rows that it was made of, some megabytes, and the next night's bundle names nearly the same ones.
What a night needs of bundles that are gone is which rows ever trained, chose, certified or reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.jsonl import records
from offline.splits.bundle_past import PastRow
from offline.splits.settings import Split
from offline.splits.split_ledger import Home
from stage1.artifacts import append_line

PAST_ROWS = "past_rows.jsonl"


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    sha256: str | None = None
    label: int | None = None
    group: str
    split: Split
    fold: int | None = Field(default=None, ge=0)


class _Line(BaseModel):
    """The rows of one bundle that no line before has in the same set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    bundle: str
    rows: tuple[_Row, ...]


_LINES = TypeAdapter(_Line)


def read_past_rows(root: Path) -> dict[str, tuple[PastRow, ...]]:
    """Rows of bundles that are gone by the id of a bundle that used them, oldest first.

    Args:
        root: of the store.

    Raises:
        DatasetError: a line is not one of this file.
    """
    found: dict[str, tuple[PastRow, ...]] = {}
    for line in records(root / PAST_ROWS, _LINES):
        rows = tuple(PastRow(row.row, row.sha256, row.label, row.group, Home(row.split, row.fold)) for row in line.rows)
        found[line.bundle] = (*found.get(line.bundle, ()), *rows)
    return found


def remember_rows(root: Path, bundle: str, rows: Sequence[PastRow]) -> None:
    """Write down what a bundle did with rows, those that are written down already left out.

    Args:
        root: of the store.
        bundle: its id.
        rows: the rows that it was made of.

    Raises:
        DatasetError: a line of the file is damaged.
    """
    known = {_use(row) for before in read_past_rows(root).values() for row in before}
    new = {_use(row): row for row in rows if _use(row) not in known}
    if new:
        told = tuple(
            _Row(
                row=row.row,
                sha256=row.sha256,
                label=row.label,
                group=row.group,
                split=row.home.split,
                fold=row.home.fold,
            )
            for row in new.values()
        )
        append_line(root / PAST_ROWS, _Line(bundle=bundle, rows=told))


def _use(row: PastRow) -> tuple[str, Split]:
    return row.sha256 or row.row, row.home.split

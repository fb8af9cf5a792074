"""Taking over a split ledger of version 1, which knew rows by their paths alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.chained_ledger import take_over
from offline.splits.settings import Split
from offline.splits.split_ledger import Assignment, PlacedRow, StrataCut

OLD_VERSION = 1


class _OldLine(BaseModel):
    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1]


class _OldCut(_OldLine):
    event: Literal["strata"]
    strata_version: int
    scorer: str
    edges: tuple[float, ...]
    at: str


class _OldAssignment(_OldLine):
    event: Literal["assign"]
    group: str
    split: Split
    fold: int | None = None
    rows: tuple[str, ...]
    first_seen: str
    strata_version: int


_OldEvent = Annotated[_OldCut | _OldAssignment, Field(discriminator="event")]
_OLD: TypeAdapter[_OldCut | _OldAssignment] = TypeAdapter(_OldEvent)


def take_over_splits(path: Path, contents: Mapping[str, str], labels: Mapping[str, int]) -> bool:
    """Rewrite a ledger of version 1: every group stays where it is, and rows that are there get their content.

    Args:
        path: the ledger.
        contents: hash of the file of each row of the night.
        labels: label of each row of the night.

    Returns:
        Whether it was one of version 1.

    Raises:
        DatasetError: a line of it is not an event.
    """

    def renewed(old: list[_OldCut | _OldAssignment]) -> list[BaseModel]:
        return [_renewed(event, contents, labels) for event in old]

    return take_over(path, _OLD, OLD_VERSION, renewed)


def _renewed(event: _OldCut | _OldAssignment, contents: Mapping[str, str], labels: Mapping[str, int]) -> BaseModel:
    fields = event.model_dump(exclude={"schema_version"})
    if isinstance(event, _OldCut):
        return StrataCut.model_validate(fields)
    rows = tuple(PlacedRow(row=row, sha256=contents.get(row), label=labels.get(row)) for row in event.rows)
    return Assignment.model_validate(fields | {"rows": rows})

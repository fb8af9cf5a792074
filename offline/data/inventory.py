"""What was read of a data directory: how many rows, which columns join them, and which are only metadata."""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from offline.data.dataset import Dataset
from offline.data.place_and_time import (
    LATITUDE_COLUMNS,
    LONGITUDE_COLUMNS,
    PLACE_COLUMNS,
    POINT_COLUMNS,
    TIME_COLUMNS,
)
from offline.data.values import said
from stage1.artifacts import Artifact
from stage1.column_names import columns_called

GROUP = "group"

Use = Literal["joins rows", "place and time", "metadata"]

# A value of a cell can be a whole text.
_SHORT = reprlib.Repr()
_SHORT.maxstring = 80


class ColumnUse(BaseModel):
    """What is in one column beside image, label and source.

    Attributes:
        column: its name.
        use: `joins rows` if rows with one value in it are one group, `place and time` if it says where or when, and
            `metadata` for all others.
        rows: rows that have a value.
        values: different values; of a column that joins rows, those of two sources count twice.
        commonest: the value that most rows have.
        most: number of these rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    use: Use
    rows: int
    values: int
    commonest: str
    most: int


class Inventory(BaseModel):
    """What was read of a data directory.

    Attributes:
        rows: number of rows.
        roadwork: how many of them are labelled 1.
        sources: rows of each source; the empty name is that of rows without one.
        columns: the columns in which any row has a value, those that join rows first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    roadwork: int
    sources: dict[str, int]
    columns: tuple[ColumnUse, ...]

    @property
    def joining(self) -> tuple[ColumnUse, ...]:
        """The columns that join rows."""
        return tuple(column for column in self.columns if column.use == "joins rows")

    @property
    def joins_most(self) -> str:
        """The column that joins the most rows into one group, in words."""
        largest = max(self.joining, key=lambda column: column.most, default=None)
        if largest is None or largest.most < 2:
            return "no column joins rows"
        return f"{largest.column} joins most: {largest.most} rows have {_SHORT.repr(largest.commonest)}"

    def __str__(self) -> str:
        joining = ", ".join(f"{column.column} ({column.values} values)" for column in self.joining)
        others = {use: [c.column for c in self.columns if c.use == use] for use in ("place and time", "metadata")}
        return "; ".join(
            [
                f"{self.rows} rows, {self.roadwork} with roadwork",
                f"columns that join rows: {joining or 'none'}",
                self.joins_most,
                *([f"place and time: {', '.join(others['place and time'])}"] if others["place and time"] else []),
                f"only metadata: {', '.join(others['metadata']) or 'none'}",
            ]
        )


class InventoryRecord(Artifact):
    """`inventory.json`: what was read of the data, before any row was left out."""

    SCHEMA_VERSION: ClassVar[int] = 1

    inventory: Inventory


def inventory_of(data: Dataset, sequence_columns: Sequence[str], *, places: bool = True) -> Inventory:
    """Say what was read.

    Args:
        data: the rows.
        sequence_columns: columns whose values join rows of one source, by their name or the end of a dotted one.
        places: whether places and times join rows.
    """
    placing = (*PLACE_COLUMNS, *LATITUDE_COLUMNS, *LONGITUDE_COLUMNS, *POINT_COLUMNS, *TIME_COLUMNS) if places else ()
    columns = _counted(GROUP, "joins rows", (row.group for row in data.rows if row.group != row.image))
    for name in sorted({name for row in data.rows for name in row.metadata}):
        if _is_one_of(name, sequence_columns):
            ids = ((row.source, value) for row in data.rows if (value := row.sequence(name)) is not None)
            columns += _counted(name, "joins rows", ids)
        else:
            use: Use = "place and time" if _is_one_of(name, placing) else "metadata"
            columns += _counted(name, use, (value for row in data.rows if (value := said(row.metadata.get(name, "")))))
    return Inventory(
        rows=len(data),
        roadwork=int(data.labels.sum()),
        sources=dict(sorted(Counter(row.source for row in data.rows).items())),
        columns=tuple(sorted(columns, key=lambda column: column.use)),
    )


def _is_one_of(name: str, columns: Iterable[str]) -> bool:
    return any(columns_called(column, (name,)) for column in columns)


def _counted(name: str, use: Use, values: Iterable[Hashable]) -> list[ColumnUse]:
    counts = Counter(values)
    if not counts:
        return []
    value, most = min(counts.items(), key=lambda item: (-item[1], str(item[0])))
    shown = value[1] if isinstance(value, tuple) else value
    return [ColumnUse(column=name, use=use, rows=counts.total(), values=len(counts), commonest=str(shown), most=most)]

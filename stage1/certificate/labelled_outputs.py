"""Labelled rows of a split, as calibration and evaluation see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from stage1.artifacts import sha256_json
from stage1.certificate.risks import Unit, Units
from stage1.column_names import column_name, columns_called
from stage1.errors import RowsError
from stage1.outputs import Stage1Outputs

UNKNOWN = "unknown"


@dataclass(frozen=True)
class LabelledOutputs:
    """Outputs of the compiled engine for labelled rows, checked on construction.

    Attributes:
        outputs: Stage-1 outputs of N images.
        labels: 0 or 1, `(N,)`.
        row_ids: unique id of each row.
        groups: group of each row.
        metadata: named columns of what is known of each row (day or night, a city), N values each.

    Raises:
        RowsError: there are no rows, the lengths differ, a label is neither 0 nor 1, or a row is there twice.
    """

    outputs: Stage1Outputs
    labels: NDArray[np.int8]
    row_ids: Sequence[str]
    groups: Sequence[str]
    metadata: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        columns = {"labels": self.labels, "row_ids": self.row_ids, "groups": self.groups, **self.metadata}
        wrong = {name: len(values) for name, values in columns.items() if len(values) != len(self.outputs)}
        if wrong:
            name, length = next(iter(wrong.items()))
            raise RowsError(f"outputs and columns differ in length: {len(self.outputs)} outputs, {length} {name}")
        if not len(self.labels):
            raise RowsError("there are no rows")
        known = (self.labels == 0) | (self.labels == 1)
        if not known.all():
            first = int(np.argmin(known))
            raise RowsError(
                f"{np.sum(~known)} labels are neither 0 nor 1, the first is {self.labels[first]} "
                f"of row {self.row_ids[first]!r}"
            )
        if len(set(self.row_ids)) != len(self.row_ids):
            seen: set[str] = set()
            twice = next(row for row in self.row_ids if row in seen or seen.add(row))  # type: ignore[func-returns-value]
            raise RowsError(f"row {twice!r} is there twice; {len(self.row_ids) - len(set(self.row_ids))} rows repeat")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positive(self) -> NDArray[np.bool_]:
        """Bool `(N,)`: roadwork is in the image."""
        mask: NDArray[np.bool_] = self.labels == 1
        return mask

    def units(self, unit: Unit, seed: int) -> Units:
        """The independent units of these rows."""
        return Units.of(self.row_ids, self.groups, unit=unit, seed=seed)

    def about(self, name: str) -> list[str]:
        """What a column says of each row, `(N,)`; empty where it says nothing.

        Args:
            name: of the column, by the rule of `stage1.column_names`: `Time of day` also finds `tags.time_of_day`.
                Where several columns are meant, each row is described by the first one that says anything of it.

        Raises:
            RowsError: there is no such column.
        """
        known = {column_name(column): values for column, values in self.metadata.items()}
        found = [known[column] for column in columns_called(name, tuple(known))]
        if not found:
            listed = ", ".join(sorted(self.metadata)) or "no metadata"
            raise RowsError(f"no column {name!r} in the data; there is {listed}")
        return [next(filter(None, values), "") for values in zip(*found, strict=True)]

    def column(self, name: str) -> NDArray[np.str_]:
        """One column of metadata (see `about`), `(N,)`; an empty value is `unknown`.

        Raises:
            RowsError: there is no such column.
        """
        return np.asarray([value or UNKNOWN for value in self.about(name)], dtype=np.str_)

    def pick(self, index: NDArray[np.intp]) -> Self:
        """Some of the rows, in the order of `index`."""
        places = index.tolist()
        return type(self)(
            self.outputs.rows(index),
            self.labels[index],
            [self.row_ids[i] for i in places],
            [self.groups[i] for i in places],
            {name: [values[i] for i in places] for name, values in self.metadata.items()},
        )

    @property
    def rows_sha256(self) -> str:
        """Hash of the sorted row ids."""
        return sha256_json(sorted(self.row_ids))


def check_disjoint(first: LabelledOutputs, second: LabelledOutputs, names: tuple[str, str]) -> None:
    """Refuse two sets that share a group or a row.

    Raises:
        RowsError: they do; the message names one.
    """
    for what, mine, theirs in (("groups", first.groups, second.groups), ("rows", first.row_ids, second.row_ids)):
        shared = set(mine) & set(theirs)
        if shared:
            raise RowsError(f"{names[0]} and {names[1]} share {len(shared)} {what}, for example {min(shared)!r}")

"""Targets of the named heads, from columns of the data."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from offline.data.dataset import Dataset
from offline.errors import DatasetError
from stage1.model.settings import NamedHead

NO_TARGET = -1


def named_targets(data: Dataset, heads: Mapping[str, NamedHead]) -> dict[str, NDArray[np.int64]]:
    """The class of each row for each named head, `(N,)`; `NO_TARGET` where the column is empty.

    Args:
        data: the rows.
        heads: column and classes by name of the head.

    Raises:
        DatasetError: a value is none of the classes.
    """
    return {name: _targets(data, name, head) for name, head in heads.items()}


def check_named(data: Dataset, heads: Mapping[str, NamedHead]) -> None:
    """Refuse data from which a named head could not learn.

    Args:
        data: all rows, or those that train.
        heads: column and classes by name of the head.

    Raises:
        DatasetError: a value is none of the classes, or no row at all has a value.
    """
    for name, found in named_targets(data, heads).items():
        if (found == NO_TARGET).all():
            raise DatasetError(
                f"{data.root}: no row has a value in the column {heads[name].column!r}, which the head {name!r} learns"
            )


def _targets(data: Dataset, name: str, head: NamedHead) -> NDArray[np.int64]:
    place = {value: index for index, value in enumerate(head.classes)}
    found = np.full(len(data), NO_TARGET, np.int64)
    for number, row in enumerate(data.rows):
        value = row.about(head.column, known=head.classes)
        if value is None:
            continue
        if value not in place:
            raise DatasetError(
                f"{data.root}: {row.image!r} has {head.column} {value!r}, and the head {name!r} knows "
                f"{', '.join(head.classes)}: add the value to model.heads.{name}.classes or mend the row"
            )
        found[number] = place[value]
    return found

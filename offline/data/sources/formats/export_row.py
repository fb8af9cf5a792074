"""A row of an export of another program, whose columns mean what they mean in a labels file."""

from __future__ import annotations

from collections.abc import Mapping

from offline.data.dataset import Row
from offline.data.values import identity, said
from offline.errors import DatasetError
from stage1.column_names import column_name

GROUP = "group"


def export_row(image: str, label: int, source: str, about: Mapping[str, str]) -> Row:
    """A row, in the group that its column `group` names; that group is one of its source alone.

    Args:
        image: id of the row.
        label: 1 if roadwork is in it.
        source: name of the source.
        about: what else the export says of it, by the name of the column.

    Raises:
        DatasetError: two columns are called `group`, or a spreadsheet has made one of several groups, or may have.
        pydantic.ValidationError: two columns have the same name, or the id is no path.
    """
    named = {name: said(text) for name, text in about.items() if column_name(name) == GROUP}
    if len(named) > 1:
        raise DatasetError(
            f"the columns {' and '.join(map(repr, named))} have the same name: keep the one that is meant"
        )
    group = next(iter(named.values()), None)
    return Row(
        image=image,
        label=label,
        group=image if group is None else f"{source}/{identity(group)}",
        source=source,
        metadata={name: text for name, text in about.items() if name not in named},
    )

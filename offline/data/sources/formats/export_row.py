"""A row of an export of another program, whose columns mean what they mean in a labels file."""

from __future__ import annotations

from collections.abc import Mapping

from offline.data.dataset import Row
from offline.data.values import identity, said
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
        DatasetError: a spreadsheet has made several groups of the one that is named, or may have.
        pydantic.ValidationError: two columns have the same name, or the id is no path.
    """
    named = [value for name, text in about.items() if column_name(name) == GROUP and (value := said(text)) is not None]
    return Row(
        image=image,
        label=label,
        group=f"{source}/{identity(named[0])}" if named else image,
        source=source,
        metadata={name: text for name, text in about.items() if column_name(name) != GROUP},
    )

"""Which column of an export is to be renamed, where `image` or `label` is missing."""

from __future__ import annotations

from collections.abc import Sequence

from offline.data.sources.csv_table import Table
from offline.data.values import label_of

SHOWN = 20
# What exports call the path of a picture and its class; the likeliest first. From the formats of BDD100K and Scalabel,
# COCO, Open Images, Roboflow, VIA, CVAT, Label Studio and Mapillary, and of Kaggle's competitions.
OTHER_NAMES = {
    "image": (
        *("filename", "#filename", "file_name", "image_path", "img_path", "image_name", "img_name", "file", "filepath"),
        *("path", "img", "name", "image_url", "img_url", "url", "image_id", "imageid", "img_id", "id", "key"),
    ),
    "label": (
        *("roadwork", "is_roadwork", "has_roadwork", "labels", "choice", "class", "target", "class_id", "category"),
        *("category_id", "category_name", "class_name", "classname", "labelname", "label_name", "y", "tag", "tags"),
        *("region_attributes", "file_attributes"),
    ),
}


def advice(table: Table, needed: Sequence[str]) -> str | None:
    """What is missing, what there is, and what to rename; None if nothing is missing.

    Args:
        table: of the labels file.
        needed: names of the columns that must be there.
    """
    missing = [name for name in needed if name not in table.columns]
    if not missing:
        return None
    there = [header.strip() for header in table.columns.values()]
    shown = f"{', '.join(there[:SHOWN])}{' and more' if len(there) > SHOWN else ''}" or "none"
    renames = [told for name in missing if (told := _rename(table, name))]
    return "; ".join([missing_columns(missing, shown), *renames])


def missing_columns(missing: Sequence[str], there: str) -> str:
    """What is told of columns that a file lacks, at least one, beside those that are there."""
    return f"column{'s' * (len(missing) > 1)} {' and '.join(missing)} missing; it has {there}"


def _rename(table: Table, name: str) -> str:
    known = [other for other in OTHER_NAMES.get(name, ()) if other in table.columns]
    # A name that ends so, as `data.image` or `attributes.label`.
    known += [other for other in table.columns if other.endswith(f".{name}") and other not in known]
    shown = repr(table.columns[known[0]].strip()) if known else ""
    if name != "label":
        return f"rename {shown} to {name}" if known else ""
    flags = _flags(table)
    if known:
        values = "" if known[0] in flags else ", with 1 where roadwork is in the picture and 0 elsewhere"
        return f"rename {shown} to label{values}"
    listed = ", ".join(repr(table.columns[flag].strip()) for flag in flags)
    return f"rename the one of {listed} that says 1 where roadwork is in the picture to label" if flags else ""


def _flags(table: Table) -> list[str]:
    """Columns that hold 0 and 1 alone, as one-hot classes do."""
    return [name for name in table.columns if {label_of(record.cells[name]) for record in table.records} == {0, 1}]

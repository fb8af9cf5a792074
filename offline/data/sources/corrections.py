"""`corrections.csv`: labels that a person has looked at again, applied to the rows of all sources as they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offline.data.dataset import Row
from offline.data.sources.csv_table import Record, Table, read_table
from offline.data.sources.missing_columns import advice
from offline.data.values import label_of, said
from offline.errors import DatasetError

CORRECTIONS_FILE = "corrections.csv"
NEEDED = ("image", "label", "new_label")


def corrected(rows: Sequence[Row], path: Path) -> list[Row]:
    """The rows, those with their new label that the file gives one; a line whose `new_label` is empty changes nothing.

    Args:
        rows: as their sources have them.
        path: the file, with columns `image`, `label` and `new_label`, as `suspects.csv` of a night has them; need not
            be there.

    Raises:
        DatasetError: the file cannot be read, a column is missing, or a line names no row, names one twice, gives no
            label, or says of a row that it had another label than it has.
    """
    if not path.exists():
        return list(rows)
    table = read_table(path, NEEDED)
    missing = advice(table, NEEDED)
    if missing is not None:
        raise DatasetError(f"{path}: {missing}")
    labels = {row.image: row.label for row in rows}
    new: dict[str, int] = {}
    for record in table.records:
        if said(record.cells["new_label"]) is None:
            continue
        image = record.cells["image"]
        if image in new:
            raise DatasetError(f"{path}, line {record.line}: {image!r} is corrected twice")
        new[image] = _new_label(table, record, labels)
    return [row.model_copy(update={"label": new.get(row.image, row.label)}) for row in rows]


def _new_label(table: Table, record: Record, labels: dict[str, int]) -> int:
    where, image = f"{table.path}, line {record.line}", record.cells["image"]
    before, after = label_of(record.cells["label"]), label_of(record.cells["new_label"])
    if image not in labels:
        raise DatasetError(
            f"{where}: no row is called {image!r}; take the line out, or write the id of the row, which is the path of "
            f"its file below the data directory or begins with the name of its source, for example {min(labels)!r}"
        )
    if before is None or after is None:
        raise DatasetError(f"{where}: label and new_label must be 0 or 1, or new_label empty")
    if labels[image] != before:
        raise DatasetError(
            f"{where}: {image!r} has the label {labels[image]} and not {before}, so somebody has mended it since; take "
            "the line out"
        )
    return after

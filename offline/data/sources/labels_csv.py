"""`labels.csv`, one source of labelled images."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from offline.data.dataset import Row
from offline.data.sources.csv_table import Record, Table, fields_of, read_table
from offline.data.sources.image_paths import PICTURES, ImagePaths
from offline.data.sources.missing_columns import advice
from offline.data.sources.missing_images import missing_words, too_many_missing
from offline.data.values import identity, label_of, said
from offline.errors import DatasetError, MissingImage
from stage1.settings import first_problem

LABELS_FILE = "labels.csv"
NEEDED = ("image", "label")
KNOWN_COLUMNS = (*NEEDED, "group", "source")
# Values of the label that are shown where one is none.
SHOWN = 5

_LINE_BREAK = re.compile("\r\n|\r|\n")


class LabelsCsv:
    """A `labels.csv`: columns `image` and `label` are needed, `group` and `source` are used, all others are metadata.

    Args:
        path: the file.
    """

    train_only = False

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`.

        Raises:
            DatasetError: the file cannot be read, a column is missing, or a row is bad, with its line number.
        """
        table = read_table(self._path, NEEDED)
        missing = advice(table, NEEDED)
        if missing is not None:
            raise DatasetError(f"{self.name}: {missing}")
        paths = ImagePaths(self._path.parent)
        lines: dict[str, int] = {}
        rows: list[Row] = []
        gone: list[MissingImage] = []
        for record in table.records:
            row = _located(table, record, paths, gone)
            if row.image in lines:
                raise DatasetError(
                    f"{self.name}: {row.image!r} is listed twice, in lines {lines[row.image]} and {record.line}; a "
                    "picture is one row, also if an export has a row for each box in it"
                )
            lines[row.image] = record.line
            rows.append(row)
        if too_many_missing(len(gone), len(rows)):
            # All of them, most often: the paths are written otherwise, or the disk with the images is not there.
            raise DatasetError(f"{gone[0]}; {missing_words(len(gone), len(rows))}")
        return tuple(rows)


def _located(table: Table, record: Record, paths: ImagePaths, missing: list[MissingImage]) -> Row:
    """A row, or what is wrong with it, with its line; that its image is not there is only noted."""
    try:
        return _row(table, record, paths)
    except MissingImage as error:
        missing.append(MissingImage(f"{table.path}, line {record.line}: {error}"))
        return _row(table, record, _AsWritten())
    except ValidationError as error:
        raise DatasetError(f"{table.path}, line {record.line}: {first_problem(error, otherwise='the row')}") from error
    except DatasetError as error:
        raise DatasetError(f"{table.path}, line {record.line}: {error}") from error


class _AsWritten:
    """Takes the path of an image as it is written."""

    def find(self, text: str) -> str:
        """See `ImagePaths.find`."""
        return str(PurePosixPath(text.replace("\\", "/")))


def _row(table: Table, record: Record, paths: ImagePaths | _AsWritten) -> Row:
    cells = record.cells
    _refuse_swallowed(table, cells)
    label = label_of(cells["label"])
    if label is None:
        others = sorted({other.cells["label"] for other in table.records})
        listed = ", ".join(others[:SHOWN]) + (" and more" if len(others) > SHOWN else "")
        raise DatasetError(
            f"label is {cells['label']!r}, expected 0 or 1, or false, true, no or yes; 1 means that roadwork is in the "
            f"picture; the column holds {listed}"
        )
    image = paths.find(cells["image"])
    group = said(cells.get("group", ""))
    return Row(
        image=image,
        label=label,
        group=image if group is None else identity(group),
        source=said(cells.get("source", "")) or "",
        metadata={name: value for name, value in cells.items() if name not in KNOWN_COLUMNS and value},
    )


def _refuse_swallowed(table: Table, cells: dict[str, str]) -> None:
    """Refuse a cell that holds further rows, because the quote that ends it belongs to a later one."""
    for name, cell in cells.items():
        if cell.isprintable():
            continue
        first, *more = _LINE_BREAK.split(cell)
        if more and (name in KNOWN_COLUMNS or any(_is_row(table, line) for line in more)):
            raise DatasetError(
                f"{name} goes over {len(more) + 1} lines, as if they were one value: a double quote before {first!r} "
                "is not closed where the value ends"
            )


def _is_row(table: Table, line: str) -> bool:
    fields = dict(zip(table.order, fields_of(line, table.delimiter), strict=False))
    picture = Path(fields.get("image", "")).suffix.lower() in PICTURES
    return picture and label_of(fields.get("label", "")) is not None


SOURCE = LabelsCsv

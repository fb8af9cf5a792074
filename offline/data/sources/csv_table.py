"""A CSV file of a person: its encoding, its delimiter, its columns and its rows, or one sentence on why not."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from offline.errors import DatasetError
from stage1.column_names import column_name

# UTF-32 first: its mark begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ZIP = b"PK\x03\x04"
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
SAVE_AGAIN = "save it as CSV in UTF-8"


@dataclass(frozen=True)
class Record:
    """A row of a table.

    Attributes:
        line: number of the line on which it begins, from 1.
        cells: what is in each column, without blanks around it.
    """

    line: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """The rows of a CSV file.

    Attributes:
        path: the file.
        columns: the header as the file has it, by the name of the column (see `column_name`), in the order of the file.
            Columns without a name, as the index of pandas is, are left out.
        order: the name of each column, empty for one without a name.
        delimiter: between two values.
        records: the rows; those in which every cell is empty are left out.
    """

    path: Path
    columns: dict[str, str]
    order: tuple[str, ...]
    delimiter: str
    records: tuple[Record, ...]


def read_table(path: Path, needed: Sequence[str]) -> Table:
    """Read a CSV file: UTF-8, or UTF-16 and UTF-32 with their mark; delimited by comma, semicolon, tab or bar.

    Args:
        path: the file.
        needed: names of columns by which the delimiter is told.

    Raises:
        DatasetError: it cannot be read or decoded, two columns have the same name, a quote is not closed, or a row has
            more or fewer values than there are columns; the message names the line.
    """
    text = _decoded(path)
    lines = text.splitlines()
    # A first line that spreadsheets write and read.
    announced = re.fullmatch(r"sep=(.)", lines[0].strip(), re.IGNORECASE) if lines else None
    header_line = next((line for line in lines[1 if announced else 0 :] if line.strip()), "")
    delimiter = announced[1] if announced else _delimiter(header_line, needed)
    try:
        rows = _rows(path, text, delimiter)
        if announced:
            next(rows, None)
        header = next(rows, (1, []))[1]
        columns = _columns(path, header)
        names = tuple(column_name(cell) for cell in header)
        records = tuple(_record(path, line, names, cells, delimiter) for line, cells in rows)
    except csv.Error as error:
        raise DatasetError(f"{path}: cannot be read as CSV: {error}") from error
    return Table(path, columns, names, delimiter, records)


def fields_of(line: str, delimiter: str) -> list[str]:
    """The fields of one line, with quotes taken as they come."""
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), [])
    except csv.Error:
        # Longer than the reader takes, so no quote can be told.
        return line.split(delimiter)


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    if content.startswith(ZIP):
        raise DatasetError(f"{path}: is no text but a zip archive, as workbooks of spreadsheets are; {SAVE_AGAIN}")
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DatasetError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not {encoding.removesuffix('-sig').upper()}; "
            f"the file may be Latin-1 or Windows-1252: {SAVE_AGAIN}"
        ) from error
    if "\0" in text:
        raise DatasetError(f"{path}: holds zero bytes, it may be UTF-16 without its mark, or no text; {SAVE_AGAIN}")
    return text


def _delimiter(header: str, needed: Sequence[str]) -> str:
    """The one that shows most of the needed columns in the header, and then most columns."""

    def found(delimiter: str) -> tuple[int, int]:
        names = [column_name(cell) for cell in fields_of(header, delimiter)]
        return sum(name in needed for name in names), len(names)

    return max(DELIMITERS, key=found)


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that say anything, each with the number of its first line."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DatasetError(
                f"{path}, line {line}: a double quote is opened here and not closed right before a {_name(delimiter)} "
                f"or the end of a line ({error}); close it there, and write a quote inside of a quoted value twice"
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _columns(path: Path, header: Sequence[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for cell in header:
        name = column_name(cell)
        if name in columns:
            raise DatasetError(
                f"{path}: the columns {columns[name]!r} and {cell!r} have the same name, for case and blanks do not "
                "count: rename one of them"
            )
        if name:
            columns[name] = cell
    return columns


def _record(path: Path, line: int, names: Sequence[str], cells: list[str], delimiter: str) -> Record:
    if len(cells) != len(names):
        why = (
            f"put a value that holds a {_name(delimiter)} into double quotes"
            if len(cells) > len(names)
            else "the row is cut short, or an earlier quote is not closed"
        )
        raise DatasetError(f"{path}, line {line}: the row has {len(cells)} values, the header {len(names)}; {why}")
    inside = {name: cell.strip() for name, cell in zip(names, cells, strict=True) if name}
    return Record(line, inside)


def _name(delimiter: str) -> str:
    return DELIMITERS.get(delimiter, repr(delimiter))

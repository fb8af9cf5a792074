"""What a table says of pictures without labels; where the pictures are is known without a library of learning."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from offline.data.sources.csv_table import read_table
from offline.errors import DatasetError

COLUMNS = ("image", "probability")


@dataclass(frozen=True)
class Verdict:
    """What a table says of a picture.

    Attributes:
        path: of the picture.
        probability: of roadwork.
    """

    path: Path
    probability: float


def verdicts_of(path: Path) -> list[Verdict]:
    """The verdicts of a table, with the columns `image` and `probability`; paths are relative to the table.

    Raises:
        DatasetError: the table cannot be read, a picture is not there or is listed twice, or a probability is none.
    """
    table = read_table(path, COLUMNS)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DatasetError(f"{path}: no column {missing[0]!r}; verdicts have the columns {' and '.join(COLUMNS)}")
    found: dict[Path, Verdict] = {}
    for record in table.records:
        where, picture = f"{path}, line {record.line}", path.parent / record.cells["image"]
        if not picture.is_file():
            raise DatasetError(f"{where}: {picture} is not there")
        if picture in found:
            raise DatasetError(f"{where}: {picture} is listed twice")
        found[picture] = Verdict(picture, _probability(record.cells["probability"], where))
    return list(found.values())


def _probability(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise DatasetError(f"{where}: probability is {cell!r}, expected a number from 0 to 1")
    return value

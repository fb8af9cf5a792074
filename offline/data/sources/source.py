"""Where labelled images come from: a directory, and in it one file for each source.

A source is one module that ends in `SOURCE = ...`, and one line in `SOURCES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from offline.data.dataset import Dataset, Row
from offline.data.sources.corrections import CORRECTIONS_FILE, corrected
from offline.errors import DatasetError

# Name of the file that a data directory holds, and the module that reads it.
SOURCES: dict[str, str] = {
    "labels.csv": "offline.data.sources.labels_csv",
}


class DataSource(Protocol):
    """Some of the labelled images of a data directory.

    Attributes:
        name: what messages call it, with its path.
        train_only: its rows may train, and never choose, certify or report.
    """

    name: str
    train_only: bool

    def rows(self) -> Iterable[Row]:
        """Its rows, in the order of the file.

        Raises:
            DatasetError: what is wrong, and in which line.
        """
        ...


def read_dataset(root: Path) -> Dataset:
    """Read and check every source of a data directory, once: whoever needs the rows later is handed what this returns.

    Labels that a person has looked at again are taken from `corrections.csv`.

    Args:
        root: the data directory.

    Raises:
        DatasetError: there is no source, a row is bad or is listed twice, an image is not there, or a class has no row.
    """
    present = [name for name in SOURCES if (root / name).exists()]
    if not present:
        raise DatasetError(f"{root}: cannot be read: a data directory holds {' or '.join(SOURCES)}")
    rows: list[Row] = []
    seen: set[str] = set()
    for name in present:
        source: DataSource = importlib.import_module(SOURCES[name]).SOURCE(root / name)
        for row in source.rows():
            _check(source, row, root, seen)
            rows.append(row.model_copy(update={"train_only": True}) if source.train_only else row)
    rows = corrected(rows, root / CORRECTIONS_FILE)
    for label in (0, 1):
        if not any(row.label == label for row in rows):
            raise DatasetError(f"{root / present[0]}: no row with label {label}; both classes are needed")
    return Dataset(root, tuple(rows)).hashed()


def _check(source: DataSource, row: Row, root: Path, seen: set[str]) -> None:
    if row.image in seen:
        raise DatasetError(f"{source.name}: {row.image!r} is listed twice")
    seen.add(row.image)
    if not (root / row.image).is_file():
        raise DatasetError(f"{source.name}: image {row.image!r} is not in {root}")

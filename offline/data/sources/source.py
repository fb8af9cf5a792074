"""Where labelled images come from: a directory, and in it one file for each source, or a `sources.toml`.

A source of a file is one module that ends in `SOURCE = ...`, and one line in `SOURCES`; a format that `sources.toml`
declares is one module of `offline.data.sources.formats` and one kind of `offline.data.sources.settings`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from offline.data.dataset import Dataset, Picture, Row
from offline.data.sources.corrections import CORRECTIONS_FILE, corrected
from offline.data.sources.declared import SOURCES_FILE, declared
from offline.data.sources.missing_images import missing_words, too_many_missing
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


@runtime_checkable
class SourceElsewhere(DataSource, Protocol):
    """A source with pictures that are no files in the data directory."""

    @property
    def pictures(self) -> Mapping[str, Picture]:
        """Pictures of its rows that are not in the data directory under their id, once the rows were read."""
        ...


def read_dataset(root: Path) -> Dataset:
    """Read and check every source of a data directory, once: whoever needs the rows later is handed what this returns.

    A row whose image is not there is left out, as long as these are one in a hundred at most.

    Labels that a person has looked at again are taken from `corrections.csv`.

    Args:
        root: the data directory.

    Raises:
        DatasetError: there is no source, a row is bad or is listed twice, too many images are not there, or a class has
            no row.
    """
    rows: list[Row] = []
    paths: dict[str, str] = {}
    packed: dict[str, Picture] = {}
    seen: set[str] = set()
    sources = sources_of(root)
    for source in sources:
        found = list(source.rows())
        pictures = source.pictures if isinstance(source, SourceElsewhere) else {}
        for row in found:
            _check(source, row, seen)
            rows.append(row.model_copy(update={"train_only": True}) if source.train_only else row)
        for image, picture in pictures.items():
            if isinstance(picture, Path):
                paths[image] = str(picture.absolute())
            else:
                packed[image] = picture
    rows = corrected(rows, root / CORRECTIONS_FILE)
    for label in (0, 1):
        if not any(row.label == label for row in rows):
            raise DatasetError(f"{sources[0].name}: no row with label {label}; both classes are needed")
    data = Dataset(root, tuple(rows), paths=paths, packed=packed)
    missing = tuple(row.image for row in rows if not data.file_of(row.image).is_file())
    if too_many_missing(len(missing), len(rows)):
        raise DatasetError(f"{root}: {missing_words(len(missing), len(rows))} For example {missing[0]!r}")
    gone = set(missing)
    return replace(data.only([row for row in rows if row.image not in gone]), missing=missing).hashed()


def sources_of(root: Path) -> list[DataSource]:
    """The sources of a data directory: those that its `sources.toml` declares, or else its own files.

    Raises:
        DatasetError: there is no such directory, nothing in it says where images are, or `sources.toml` cannot be read.
    """
    if not root.is_dir():
        why = f"is a file: give its directory, {root.parent}" if root.exists() else "no such directory"
        raise DatasetError(f"{root}: {why}")
    if (root / SOURCES_FILE).exists():
        return [*declared(root / SOURCES_FILE)]
    present = [name for name in SOURCES if (root / name).exists()]
    if not present:
        raise DatasetError(
            f"{root}: cannot be read: a data directory holds {' or '.join(SOURCES)}, or a {SOURCES_FILE} that says "
            f"where its images are{_hint(root)}"
        )
    return [importlib.import_module(SOURCES[name]).SOURCE(root / name) for name in present]


def _hint(root: Path) -> str:
    """What to write for a directory that is an export as it came."""
    if any(root.rglob("*.parquet")):
        return f'; it holds shards: write a {SOURCES_FILE} with [[source]], kind = "parquet" and path = "."'
    return ""


def _check(source: DataSource, row: Row, seen: set[str]) -> None:
    if row.image in seen:
        raise DatasetError(f"{source.name}: {row.image!r} is listed twice")
    seen.add(row.image)

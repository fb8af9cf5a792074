"""The sources that `sources.toml` declares."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import ValidationError

from offline.data.sources.formats.coco import Coco
from offline.data.sources.formats.folder import Folder
from offline.data.sources.formats.label_studio import LabelStudio
from offline.data.sources.formats.parquet import Parquet
from offline.data.sources.formats.trips import Trips
from offline.data.sources.settings import (
    AnySource,
    CocoSource,
    FolderSource,
    LabelStudioSource,
    ParquetSource,
    SourcesFile,
    TripSource,
)
from offline.errors import DatasetError
from stage1.settings import problems

SOURCES_FILE = "sources.toml"
LONGEST_FILE = 2**20


def declared(path: Path) -> list[Folder | Parquet | Trips | Coco | LabelStudio]:
    """The sources of a data directory, in the order of its `sources.toml`.

    Args:
        path: the file.

    Raises:
        DatasetError: it cannot be read, a setting is wrong, or two sources have the same name.
    """
    try:
        content = path.read_bytes()
        if len(content) > LONGEST_FILE:
            raise DatasetError(f"{path}: has {len(content)} bytes, the limit is {LONGEST_FILE}")
        settings = SourcesFile.model_validate(tomllib.loads(content.decode("utf-8-sig")))
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        raise DatasetError(f"{path}: {problems(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: is no TOML: {error}") from error
    names = [name_of(source) for source in settings.source]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DatasetError(f"{path}: two sources are called {twice[0]!r}: give each a name of its own with name")
    return [opened(path.parent, source, name) for source, name in zip(settings.source, names, strict=True)]


def name_of(source: AnySource) -> str:
    """The name of a source: its own, or that of its file, directory or repository."""
    if source.name is not None:
        return source.name
    if isinstance(source, ParquetSource) and source.repo is not None:
        return source.repo.replace("/", "-")
    assert source.path is not None
    return source.path.stem or source.kind


def opened(root: Path, source: AnySource, name: str) -> Folder | Parquet | Trips | Coco | LabelStudio:
    """What reads a source.

    Args:
        root: the data directory.
        source: its settings.
        name: what the ids of its rows begin with.
    """
    match source:
        case FolderSource():
            return Folder(root, source, name)
        case ParquetSource():
            return Parquet(root, source, name)
        case TripSource():
            return Trips(root, source, name)
        case CocoSource():
            return Coco(root, source, name)
        case LabelStudioSource():
            return LabelStudio(root, source, name)

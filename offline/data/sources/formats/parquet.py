"""Shards of a Hugging Face data set: tables in Parquet whose images are read out of them when they are wanted.

Nothing is unpacked. The columns of `natix-network-org/roadwork` are `image` (a record of `bytes` and `path`), `label`,
`id`, `gps`, `city_name`, `scene_description`, `video_info.{frame_id,seq_id,vid_id}` and
`scene_level_tags.{daytime,scene_environment,travel_alteration,weather}`; all but the first two may be missing, and any
other is metadata.
"""

from __future__ import annotations

import importlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from offline.data.dataset import FileState, Picture, Row
from offline.data.sources.formats.export_row import export_row
from offline.data.sources.missing_columns import missing_columns
from offline.data.sources.settings import ParquetSource
from offline.data.values import label_of, said
from offline.errors import DatasetError
from stage1.settings import first_problem

EXTRA = "parquet"
IMAGE, LABEL, ID = "image", "label", "id"
# Groups of rows whose images are held: a group of a shard has about a hundred images of 2 MB.
GROUPS_HELD = 2
# More than this in one group of rows is no shard of images, or made to fill the memory.
MOST_GROUP_BYTES = 4 * 2**30
LONGEST_TEXT = 4096
GATE = (
    "is gated: sign in to https://huggingface.co/datasets/{repo}, accept its terms and wait until access is granted, "
    "then run `hf auth login` or set HF_TOKEN; or name a local copy with path"
)


@dataclass(frozen=True)
class PackedPicture:
    """An image in a shard.

    Attributes:
        shard: the file.
        group: number of the group of rows.
        row: its number in the group.
    """

    shard: Path
    group: int
    row: int

    def read_bytes(self) -> bytes:
        """See `offline.data.dataset.Picture`."""
        return _GROUPS.image(self)

    def stat(self) -> FileState:
        """See `offline.data.dataset.Picture`: the state of the shard."""
        return _state_of(self.shard, os.getpid())

    def is_file(self) -> bool:
        """See `offline.data.dataset.Picture`."""
        return self.shard.is_file()

    def __str__(self) -> str:
        return f"{self.shard}, group {self.group}, row {self.row}"


@lru_cache(maxsize=4096)
def _state_of(shard: Path, _process: int) -> os.stat_result:
    # Of thousands of images in one file, each asks for its state.
    return shard.stat()


class _Groups:
    """The images of the groups of rows that were read last."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[Path, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def image(self, picture: PackedPicture) -> bytes:
        """The bytes of an image.

        Raises:
            OSError: the shard cannot be read, or holds no image there.
        """
        key = picture.shard, picture.group
        # One at a time: whoever reads a group reads it for all that wait.
        with self._lock:
            if key not in self._held:
                while len(self._held) >= GROUPS_HELD:
                    self._held.popitem(last=False)
                self._held[key] = self._read(picture)
            self._held.move_to_end(key)
            found = self._held[key][picture.row].as_py()
        if not isinstance(found, bytes):
            raise OSError(f"{picture}: has no bytes of an image")
        return found

    @staticmethod
    def _read(picture: PackedPicture) -> Any:  # noqa: ANN401  an array of pyarrow, which has no types
        arrow = pyarrow()
        try:
            table = arrow.ParquetFile(picture.shard).read_row_group(picture.group, columns=[f"{IMAGE}.bytes"])
            return table.column(IMAGE).combine_chunks().field("bytes")
        except _errors() as error:
            raise OSError(f"{picture}: cannot be read ({error})") from error


_GROUPS = _Groups()


def pyarrow() -> Any:  # noqa: ANN401  it has no types
    """The module `pyarrow.parquet`.

    Raises:
        DatasetError: it is not installed; names the extra.
    """
    try:
        return importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DatasetError(
            f"a source of kind parquet needs pyarrow, which is not installed: install the extra `{EXTRA}`, as in "
            f"`pip install 'streetvision-cascade[{EXTRA}]'`"
        ) from error


def _errors() -> tuple[type[BaseException], ...]:
    """What pyarrow raises on a file that is none, is damaged, or lacks a column."""
    found: type[BaseException] = importlib.import_module("pyarrow").ArrowException
    return found, OSError, KeyError, ValueError


class Parquet:
    """Shards of a data set.

    Args:
        root: the data directory.
        settings: of the source.
        name: what the ids of its rows begin with.
    """

    def __init__(self, root: Path, settings: ParquetSource, name: str) -> None:
        self._root, self._settings, self._prefix = root, settings, name
        self.name, self.train_only = settings.repo or str(root / (settings.path or "")), settings.train_only
        self.pictures: dict[str, Picture] = {}

    def rows(self) -> tuple[Row, ...]:
        """See `DataSource.rows`; no image is read.

        Raises:
            DatasetError: pyarrow is missing, the hub does not give the data set out, there is no shard, a shard is
                damaged or lacks a column, or a label is none.
        """
        arrow, home = pyarrow(), self._home()
        shards = [home] if home.is_file() else sorted(home.rglob("*.parquet"))
        if not shards:
            raise DatasetError(f"{self.name}: no shard in it; a shard is a file whose name ends in .parquet")
        below = home.parent if home.is_file() else home
        found = [entry for shard in shards for entry in self._entries(arrow, shard, shard.relative_to(below))]
        ids = [entry.id for entry in found]
        # The id of the data set outlives a new cut into shards, if it is one.
        named = None not in ids and len(set(ids)) == len(ids)
        rows = [self._row(entry, named=named) for entry in found]
        self.pictures = {row.image: entry.picture for row, entry in zip(rows, found, strict=True)}
        return tuple(rows)

    def _home(self) -> Path:
        if self._settings.repo is None:
            assert self._settings.path is not None
            home = self._root / self._settings.path
            if not home.exists():
                raise DatasetError(f"{home}: no such file or directory")
            return home
        return downloaded(self._settings.repo, self._settings.revision)

    def _entries(self, arrow: Any, shard: Path, inside: Path) -> Iterator[_Entry]:  # noqa: ANN401
        """The rows of a shard, without their images."""
        try:
            file = arrow.ParquetFile(shard)
            columns = [file.metadata.schema.column(n).path for n in range(len(file.metadata.schema))]
            tops = {path.partition(".")[0] for path in columns}
            missing = [name for name in (f"{IMAGE}.bytes", LABEL) if name not in columns]
            if missing:
                raise DatasetError(f"{shard}: {missing_columns(missing, ', '.join(sorted(tops)) or 'none')}")
            number = 0
            for group in range(file.metadata.num_row_groups):
                self._check_size(shard, file.metadata.row_group(group), group)
                table = file.read_row_group(group, columns=[path for path in columns if path != f"{IMAGE}.bytes"])
                for row, cells in enumerate(table.to_pylist()):
                    yield _Entry(inside, number, PackedPicture(shard, group, row), cells)
                    number += 1
        except _errors() as error:
            raise DatasetError(f"{shard}: cannot be read as Parquet ({error}); download it again") from error

    @staticmethod
    def _check_size(shard: Path, group: Any, number: int) -> None:  # noqa: ANN401
        size = group.total_byte_size
        if size > MOST_GROUP_BYTES:
            raise DatasetError(
                f"{shard}: group {number} of its rows has {size / 2**30:.1f} GiB, the limit is "
                f"{MOST_GROUP_BYTES / 2**30:.0f} GiB; write the file with smaller groups of rows"
            )

    def _row(self, entry: _Entry, *, named: bool) -> Row:
        label = label_of(str(entry.cells[LABEL]))
        if label is None:
            raise DatasetError(f"{entry.picture}: label is {entry.cells[LABEL]!r}, expected 0 or 1")
        own = f"{entry.id}.jpg" if named else f"{entry.inside.with_suffix('').as_posix()}/{entry.number:06d}.jpg"
        image = f"{self._prefix}/{own}"
        about = flattened({name: cell for name, cell in entry.cells.items() if name not in (IMAGE, LABEL, "source")})
        try:
            return export_row(image, label, self._prefix, about)
        except ValidationError as error:
            raise DatasetError(f"{entry.picture}: {first_problem(error, otherwise='the row')}") from error
        except DatasetError as error:
            raise DatasetError(f"{entry.picture}: {error}") from error


@dataclass(frozen=True)
class _Entry:
    """A row of a shard without its image: where it is, and its other cells."""

    inside: Path
    number: int
    picture: PackedPicture
    cells: Mapping[str, Any]

    @property
    def id(self) -> str | None:
        """Its id, if that can be a name of a file."""
        text = said(str(self.cells.get(ID) if self.cells.get(ID) is not None else ""))
        fits = text is not None and len(text) <= 200 and not {"/", "\\", "\0"} & set(text) and text not in {".", ".."}
        return text if fits else None


def flattened(cells: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Cells as text by dotted name; numbers in a list, as a place may be, are joined with commas.

    Args:
        cells: of a row, records in records.
        prefix: what names begin with.
    """
    found: dict[str, str] = {}
    for name, cell in cells.items():
        if isinstance(cell, Mapping):
            found |= flattened(cell, f"{prefix}{name}.")
            continue
        text = ",".join(map(str, cell)) if isinstance(cell, list) else "" if cell is None else str(cell)
        if text.strip():
            found[prefix + name] = text[:LONGEST_TEXT]
    return found


def downloaded(repo: str, revision: str | None) -> Path:
    """The shards of a data set on the hub, downloaded once into the hub's own cache.

    Raises:
        DatasetError: the hub is not reached, has no such data set, or does not give it out.
    """
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise DatasetError(
            f"{repo}: huggingface_hub is not installed, which reads from the hub: install the extra `train`, or name a "
            "local copy with path"
        ) from error
    try:
        return Path(hub.snapshot_download(repo, repo_type="dataset", revision=revision, allow_patterns=["*.parquet"]))
    except errors.GatedRepoError as error:
        raise DatasetError(f"{repo}: {GATE.format(repo=repo)}") from error
    except errors.RepositoryNotFoundError as error:
        # The hub says the same of a gated set to somebody who is not signed in.
        raise DatasetError(f"{repo}: is not on the hub, or {GATE.format(repo=repo)}") from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DatasetError(
            f"{repo}: cannot be downloaded from the hub ({reason}); try again, or name a local copy with path"
        ) from error

"""Pictures as an engine sees them, decoded once in the life of a file and mapped into memory from the disk.

A view is all that decides the pixels of a picture but the picture: how it is sent, the preprocess, and the code and the
versions of what decodes. Each view has a directory of records, one a picture, known by the hash of the bytes of its
file and, where a sender draws by it, the name of the row. A set of rows is no file of its own: a night with one new row
decodes that one, and a set of 100,000 pictures takes no more memory than the batch that is read of it. Where the disk
has no room, pictures are decoded whenever they are read.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from offline.data import originals
from offline.data.dataset import Dataset
from offline.data.originals import Copies
from offline.data.pictures.slots import KEY_BYTES, Slots
from offline.errors import DatasetError
from offline.pipeline.content_key import installed
from offline.stream import challenge, distortions, geometry, sender
from offline.stream.sender import StreamSender
from stage1 import image_file, preprocess
from stage1.artifacts import sha256_json
from stage1.certificate.stream import era_shares
from stage1.preprocess import Pixels, PreprocessSettings

# Their code, and that of these packages, decides the pixels of a file.
MODULES = (preprocess, image_file, challenge, distortions, geometry, sender)
DECODERS = ("numpy", "pillow", "scipy", "simplejpeg")
RECORDS = "pixels.u8"
# Of the free disk that one set may take.
SHARE = 0.5
# Pictures whose pixels reach the disk together.
GROUP = 32
# In place of the name of a row that a sender leaves as it is; no path has it.
AS_SENT = "\0as sent"

Tell: TypeAlias = Callable[[int, int, str], None]
Some: TypeAlias = slice | Sequence[int] | NDArray[np.intp] | NDArray[np.int64] | NDArray[np.bool_]


@dataclass(frozen=True)
class PixelStore:
    """What a workspace keeps of the pictures of a data directory.

    Attributes:
        directory: of the views; made if needed.
        copies: where copies are.
        contents: sha256 of the file of each row, 64 hex digits.
        tell: told of pictures done, pictures in all, and a note.
    """

    directory: Path
    copies: Copies
    contents: Mapping[str, str]
    tell: Tell = lambda *_: None
    _views: dict[str, Slots] = field(default_factory=dict, init=False, repr=False, compare=False)

    def content(self, rows: Dataset, row: str) -> bytes:
        """The bytes of a picture, or of its copy where the rows are seen through their copies.

        Raises:
            OSError: it cannot be read.
            ImageError: a copy is to be made, and it is no image, or over a limit.
            DatasetError: its file is another one than when it was hashed.
        """
        picture, digest = rows.file_of(row), self.contents.get(row)
        if digest is None:
            return picture.read_bytes()
        if rows.copied and (copy := self.copies.kept(digest)) is not None:
            return copy
        content = picture.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise DatasetError(f"{picture}: has changed since the data were split; run again from splits")
        return self.copies.copy(content, digest) if rows.copied else content

    def images(self, rows: Dataset, settings: PreprocessSettings) -> PixelRows | Pixels:
        """The pictures of some rows; those that are nowhere yet are decoded when the first of them is read.

        Args:
            rows: with their sender. Rows whose files nobody has hashed are decoded into memory.
            settings: of the preprocess.
        """
        if not len(rows) or any(row not in self.contents for row in rows.ids):
            return rows.array(settings)
        return PixelRows(self, rows, settings, np.arange(len(rows)), self.keys(rows, rows.ids))

    def stored(self, rows: Dataset, row: str, settings: PreprocessSettings) -> Pixels | None:
        """The pixels of a row, uint8 `(3, H, W)`; None if they are not there."""
        if row not in self.contents:
            return None
        view, [key] = self.view(rows, settings), self.keys(rows, [row])
        return view.read(view.numbers([key]))[0].reshape(3, *settings.shape) if key in view else None

    def keep(self, rows: Dataset, settings: PreprocessSettings, pixels: Mapping[str, Pixels]) -> bool:
        """Keep the pixels of some rows, by their ids; False where the disk does not take them."""
        view = self.view(rows, settings)
        records = zip(self.keys(rows, [*pixels]), pixels.values(), strict=True)
        try:
            view.append({key: np.ascontiguousarray(found).data for key, found in records})
        except OSError as error:
            self.tell(0, len(pixels), f"not kept: {self.directory} cannot be written ({error.strerror or error})")
            return False
        return True

    def has_room(self, pictures: int, settings: PreprocessSettings) -> bool:
        """Whether the disk has room for the pixels of so many more; says so if it has not."""
        needed = pictures * 3 * int(np.prod(settings.shape))
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.directory).free
        except OSError as error:
            self.tell(0, pictures, f"not kept: {self.directory} cannot be written ({error.strerror})")
            return False
        if needed <= SHARE * free:
            return True
        self.tell(
            0,
            pictures,
            f"not kept: {needed / 2**30:.1f} GiB of pixels are more than {SHARE:.0%} of the {free / 2**30:.1f} GiB "
            f"that are free in {self.directory}; pictures are decoded whenever they are read, which is slower",
        )
        return False

    def view(self, rows: Dataset, settings: PreprocessSettings) -> Slots:
        """The records of the view in which some rows are seen."""
        name = view_of(rows, settings, self.copies)
        if name not in self._views:
            self._views[name] = Slots(self.directory / name, RECORDS, 3 * int(np.prod(settings.shape)))
        return self._views[name]

    def keys(self, rows: Dataset, ids: Sequence[str]) -> list[bytes]:
        """Key of the record of each row, in its view."""
        drawn = _sender(rows) is not None
        names = [AS_SENT if drawn and rows.by_id[row].as_sent else row if drawn else "" for row in ids]
        return [_key(self.contents[row], name) for row, name in zip(ids, names, strict=True)]

    def __getstate__(self) -> dict[str, object]:
        """Without a terminal, and without what is mapped, for a process elsewhere."""
        return self.__dict__ | {"tell": _tell_nobody, "_views": {}}


@dataclass(frozen=True)
class PixelRows:
    """The pictures of N rows, read when they are asked for; what is read of them is in memory, and nothing else.

    Attributes:
        store: where they are.
        rows: with their sender.
        settings: of the preprocess.
        chosen: numbers of those of the rows that these are, `(N,)`.
        keys: of every row of `rows`.
    """

    store: PixelStore
    rows: Dataset
    settings: PreprocessSettings
    chosen: NDArray[np.intp]
    keys: Sequence[bytes]
    _told: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """N, 3, height and width."""
        return len(self.chosen), 3, *self.settings.shape

    @property
    def digests(self) -> list[bytes]:
        """What tells each picture from all others, 16 bytes; nothing is decoded for it."""
        view = view_of(self.rows, self.settings, self.store.copies).encode()
        return [hashlib.blake2b(view + self.keys[n], digest_size=KEY_BYTES).digest() for n in self.chosen.tolist()]

    def pick(self, rows: Some) -> PixelRows:
        """Some of them; nothing is read."""
        return PixelRows(self.store, self.rows, self.settings, self.chosen[rows], self.keys)

    @overload
    def __getitem__(self, rows: int) -> Pixels: ...
    @overload
    def __getitem__(self, rows: Some) -> Pixels: ...
    def __getitem__(self, rows: int | Some) -> Pixels:
        """Some of them, uint8 `(len(rows), 3, H, W)`, or one, uint8 `(3, H, W)`.

        Raises:
            DatasetError: a picture cannot be read, or its file is another one than when it was hashed.
        """
        if isinstance(rows, int | np.integer):
            return np.asarray(self._read(self.chosen[[rows]])[0])
        return self._read(self.chosen[rows])

    def __iter__(self) -> Iterator[Pixels]:
        for start in range(0, len(self), GROUP):
            yield from self[start : start + GROUP]

    def _read(self, numbers: NDArray[np.intp]) -> Pixels:
        view = self.store.view(self.rows, self.settings)
        keys = [self.keys[number] for number in numbers.tolist()]
        if not all(key in view for key in keys) and not self._fill(view):
            ids = [self.rows.rows[number].image for number in numbers.tolist()]
            return self.rows.pick(ids).array(self.settings)
        return view.read(view.numbers(keys)).reshape(len(keys), 3, *self.settings.shape)

    def _fill(self, view: Slots) -> bool:
        """Decode what is nowhere yet, all of it; False where the disk has no room."""
        if self._told:
            return False
        found = {self.keys[number]: self.rows.rows[number].image for number in self.chosen.tolist()}
        missing = [row for key, row in found.items() if key not in view]
        kept = self.store.has_room(len(missing), self.settings)
        decoded = self.rows.pick(missing).pixels(self.settings) if kept else iter(())
        done = 0
        while kept and (group := list(islice(decoded, GROUP))):
            kept = self.store.keep(self.rows, self.settings, dict(zip(missing[done:], group, strict=False)))
            done += len(group)
            self.store.tell(done, len(missing), "decoding")
        if not kept:
            self._told.append(True)
        return kept


def view_of(rows: Dataset, settings: PreprocessSettings, copies: Copies) -> str:
    """Hash of everything that decides the pixels of a picture but the picture and its name.

    Args:
        rows: with their sender, as they are or through their copies.
        settings: of the preprocess.
        copies: how copies are made.
    """
    seen = [copies.longest_px, originals.QUALITY, originals.SCHEME, _source(originals)] if rows.copied else []
    return sha256_json([settings.model_dump(), repr(_sender(rows)), seen, _code()])[:32]


def _sender(rows: Dataset) -> object:
    """Who sends the pictures; None for pictures as they are, whoever is to send them so."""
    found = rows.sender
    as_they_are = isinstance(found, StreamSender) and not era_shares(found.stream, found.weights)
    return None if as_they_are else found


@cache
def _code() -> str:
    return sha256_json([[_source(module) for module in MODULES], [installed(name) for name in DECODERS]])


@cache
def _source(module: ModuleType) -> str:
    return inspect.getsource(module)


def _key(content: str, name: str) -> bytes:
    return hashlib.blake2b(f"{content}\0{name}".encode(), digest_size=KEY_BYTES).digest()


def _tell_nobody(_done: int, _total: int, _note: str) -> None:
    pass


def digests_of(rows: Dataset) -> list[str | None]:
    """The hash of the file of each row, None where nobody has taken it."""
    contents = rows.kept.contents if isinstance(rows.kept, PixelStore) else {}
    return [contents.get(row) for row in rows.ids]


def with_contents(rows: Dataset, contents: Mapping[str, str]) -> Dataset:
    """The same rows, with the hashes of the files of some that nobody has taken before.

    Args:
        rows: what is kept of them, if anything is.
        contents: sha256 by row id.
    """
    kept = rows.kept
    if not isinstance(kept, PixelStore):
        return rows
    return rows.keeping(replace(kept, contents={**kept.contents, **contents}))


# Pictures in memory, uint8 `(N, 3, H, W)`, or on the disk.
Images: TypeAlias = Pixels | PixelRows


def picked(images: Images, rows: Some) -> Images:
    """Some of the pictures; those that are on the disk stay there."""
    return images.pick(rows) if isinstance(images, PixelRows) else images[rows]

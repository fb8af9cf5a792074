"""Pictures as an engine sees them, decoded once and kept on disk for the stages of a night.

A set of rows is one file of plain pixels that is mapped into memory: a directory of 100,000 pictures then takes no more
memory than what is read of it, and the system drops that whenever it needs room. The name of a file is the hash of all
that decides its pixels: the content of every row's file, how it is sent, the preprocess, and the code and the versions
of what decodes. It is written under another name and takes its own when all of it has reached the disk, so nobody reads
a part of one. Where the disk has no room, the set is decoded into memory.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.pipeline.content_key import installed
from offline.stream import challenge, distortions, geometry, sender
from stage1 import image_file, preprocess
from stage1.artifacts import fsync_directory, sha256_json
from stage1.preprocess import Pixels, PreprocessSettings

# Their code, and that of these packages, decides the pixels of a file.
MODULES = (preprocess, image_file, challenge, distortions, geometry, sender)
DECODERS = ("numpy", "pillow", "scipy", "simplejpeg")
SUFFIX, PARTIAL = ".npy", ".partial-"
# Of the free disk that one set may take.
SHARE = 0.5

Tell = Callable[[int, int, str], None]


@dataclass(frozen=True)
class PixelStore:
    """Files of pixels in a directory.

    Attributes:
        directory: made if needed.
        tell: told of pictures done, pictures in all, and a note.
    """

    directory: Path
    tell: Tell = lambda *_: None

    def array(self, rows: Dataset, settings: PreprocessSettings, contents: Mapping[str, str]) -> Pixels:
        """The pictures of some rows, uint8 `(N, 3, H, W)`, which only read.

        Args:
            rows: with their sender.
            settings: of the preprocess.
            contents: sha256 of the file of each row, 64 hex digits.

        Raises:
            DatasetError: a picture cannot be read, or its file is another one than that of its content hash.
        """
        if not len(rows) or any(row not in contents for row in rows.ids):
            return rows.array(settings)
        path = self.directory / f"{key_of(rows, settings, contents)}{SUFFIX}"
        found = _mapped(path)
        if found is None and self._write(path, _checked(rows, contents), settings):
            found = _mapped(path)
        if found is None:
            return _checked(rows, contents).array(settings)
        # The directory's sweeper goes by when a file was last of use; a file of somebody else is read all the same.
        with suppress(OSError):
            os.utime(path)
        return found

    def _write(self, path: Path, rows: Dataset, settings: PreprocessSettings) -> bool:
        """Decode into a file; False where the disk has no room."""
        with closing(rows.pixels(settings)) as decoded:
            first = next(decoded)
            shape = (len(rows), *first.shape)
            partial = path.with_name(f"{PARTIAL}{os.getpid()}-{path.name}")
            try:
                if not self._has_room(shape):
                    return False
                with partial.open("wb") as handle:
                    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(handle, header)
                    for done, pixels in enumerate(chain([first], decoded), start=1):
                        handle.write(pixels.tobytes())
                        self.tell(done, len(rows), "decoding")
                    handle.flush()
                    os.fsync(handle.fileno())
                partial.rename(path)
                fsync_directory(self.directory)
            except OSError as error:
                told = f"decoding into memory: {self.directory} cannot be written ({error.strerror})"
                self.tell(0, len(rows), told)
                return False
            finally:
                with suppress(OSError):
                    partial.unlink()
        return True

    def _has_room(self, shape: Sequence[int]) -> bool:
        self.directory.mkdir(parents=True, exist_ok=True)
        needed, free = int(np.prod(shape)), shutil.disk_usage(self.directory).free
        if needed <= SHARE * free:
            return True
        self.tell(
            0,
            shape[0],
            f"decoding into memory: {needed / 2**30:.1f} GiB of pixels are more than {SHARE:.0%} of the "
            f"{free / 2**30:.1f} GiB that are free in {self.directory}",
        )
        return False


def key_of(rows: Dataset, settings: PreprocessSettings, contents: Mapping[str, str]) -> str:
    """Hash of everything that decides the pixels of some rows.

    Args:
        rows: with their sender; what it draws depends on the name of a row.
        settings: of the preprocess.
        contents: hash of the file of each row.
    """
    files = [[row, contents[row]] for row in rows.ids]
    versions = [installed(name) for name in DECODERS]
    code = [inspect.getsource(module) for module in MODULES]
    return sha256_json([settings.model_dump(), repr(rows.sender), files, code, versions])


@dataclass(frozen=True)
class _CheckedSender:
    """Sends a picture as another sender would, if its file is what it was when it was hashed."""

    rows: Dataset
    contents: Mapping[str, str]

    def __call__(self, name: str, content: bytes, settings: PreprocessSettings) -> bytes:
        """See `offline.data.dataset.Sender`."""
        if hashlib.sha256(content).hexdigest() != self.contents[name]:
            raise DatasetError(
                f"{self.rows.file_of(name)}: has changed since the data were split; run again from splits"
            )
        return content if self.rows.sender is None else self.rows.sender(name, content, settings)


def _checked(rows: Dataset, contents: Mapping[str, str]) -> Dataset:
    return rows.sent_by(_CheckedSender(rows, contents))


def _mapped(path: Path) -> Pixels | None:
    """What is in a file; None if there is none, or one that somebody has damaged."""
    try:
        found: Pixels = np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
    except (OSError, ValueError, EOFError):
        return None
    return found

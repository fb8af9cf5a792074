"""Pictures larger than an engine sees them, from which what trains is cut: detail that the input lost is still there.

A file that is large, or stands otherwise than it is stored, has a copy: a JPEG that is upright and no longer than what
the input needs, which decodes several times as fast. A copy is named by the hash of the bytes of its file, so every
set and every night shares it, and one that was removed is made again to the bit. Every other file is read itself.
Where the disk takes no copy, it is made anew whenever the picture is wanted, which is slower, and the same to the bit.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import structlog
from PIL import Image

from engines.machine.cores import on_all_cores, usable_cores
from offline.data.dataset import Picture
from offline.errors import DatasetError
from stage1.artifacts import write_atomic
from stage1.errors import ImageError
from stage1.image_file import decode, is_plain_jpeg
from stage1.preprocess import PreprocessSettings, Shape, upright

log = structlog.get_logger(__name__)

# The frames of cameras of 720 lines are read themselves; half the area of a copy fills an input of 905 px.
LONGEST_PX = 1280
# Share of a picture that a crop has at least, as the usual stack of augmentations has it, and its proportions.
CROP_AREA, CROP_ASPECT = (0.5, 1.0), (0.8, 1.25)
# Above what validators send, and without thinning out colours: small orange things are what is looked for.
QUALITY, SCHEME = 90, "v2"
MADE_TOGETHER = 64


@dataclass(frozen=True)
class Crop:
    """A part of a picture, in shares of its sides.

    Attributes:
        left: of its left edge.
        top: of its upper edge.
        width: of it, in (0, 1].
        height: of it, in (0, 1].
        mirrored: whether left and right are swapped.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0
    mirrored: bool = False

    def edges(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, upper, right and lower edge in pixels of a picture of a size (width, height)."""
        across, down = size
        right, lower = min(1.0, self.left + self.width), min(1.0, self.top + self.height)
        return self.left * across, self.top * down, right * across, lower * down


def random_crop(rng: np.random.Generator) -> Crop:
    """A crop of random area, proportions and place, as torchvision's `RandomResizedCrop` draws it.

    Args:
        rng: draws it.
    """
    area, aspect = rng.uniform(*CROP_AREA), math.exp(rng.uniform(*np.log(CROP_ASPECT)))
    width, height = min(1.0, math.sqrt(area * aspect)), min(1.0, math.sqrt(area / aspect))
    return Crop(rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height)


def cropped(picture: Image.Image, crop: Crop) -> Image.Image:
    """A crop of a picture at its own resolution, at least one pixel.

    Args:
        picture: of any size.
        crop: of it; what is mirrored is not asked for.
    """
    left, top, right, lower = (round(edge) for edge in crop.edges(picture.size))
    left, top = min(left, picture.width - 1), min(top, picture.height - 1)
    return picture.crop((left, top, max(left + 1, right), max(top + 1, lower)))


def resized(picture: Image.Image, crop: Crop, shape: Shape) -> Image.Image:
    """A crop of a picture, resized with antialiasing.

    Args:
        picture: RGB.
        crop: of it.
        shape: height and width of what is returned, px.
    """
    left, top, right, lower = crop.edges(picture.size)
    box = left, top, max(right, left + 1e-3), max(lower, top + 1e-3)
    found = picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR, box=box)
    return found.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if crop.mirrored else found


def longest_side(shape: Shape) -> int:
    """Longest side of a copy, px: a crop of the least area that is drawn still fills the input.

    Args:
        shape: height and width of the input, px.
    """
    return max(LONGEST_PX, math.ceil(max(shape) / math.sqrt(CROP_AREA[0])))


@dataclass(frozen=True)
class Copies:
    """Where copies are, and how they are made.

    Attributes:
        directory: made if needed.
        settings: of the preprocess: limits of what is decoded, and the input that is cut.
    """

    directory: Path
    settings: PreprocessSettings

    @property
    def longest_px(self) -> int:
        """Longest side of a copy."""
        return longest_side(self.settings.shape)

    def of(self, path: Picture) -> Picture:
        """The file to cut from: the copy of a file, made if it is not there and the disk takes it, or the file itself.

        What is inside of a larger file always has a copy, of its own bytes if it needs no other. A file that this
        process has looked at is not read again, unless it has changed.

        Raises:
            OSError: it cannot be read.
            ImageError: it is no image, or over a limit.
        """
        state = path.stat()
        found = _known(self, path, (state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino))
        return found if found.is_file() else self.looked_up(path)

    def looked_up(self, path: Picture) -> Picture:
        """See `of`; the file is read."""
        content = path.read_bytes()
        as_it_is = self.is_one(content)
        if as_it_is and isinstance(path, Path):
            return path
        digest = hashlib.sha256(content).hexdigest()
        copy = self.place(digest)
        made = None if copy.exists() else content if as_it_is else self.made(content)
        try:
            if made is None:
                # What is in use is not swept away.
                os.utime(copy)
            else:
                copy.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(copy, made)
        except OSError as error:
            log.warning("no_copy_of_a_picture", path=str(path), copy=str(copy), reason=error.strerror or str(error))
            return path
        return copy

    def place(self, digest: str) -> Path:
        """Where the copy of a file with this hash is, if it has one."""
        return self.directory / digest[:2] / f"{digest}-{self.longest_px}-{SCHEME}.jpg"

    def kept(self, digest: str) -> bytes | None:
        """The copy of a file with this hash; None if there is none."""
        copy = self.place(digest)
        try:
            content = copy.read_bytes()
        except OSError:
            return None
        with suppress(OSError):
            # What is in use is not swept away.
            os.utime(copy)
        return content

    def copy(self, content: bytes, digest: str) -> bytes:
        """The copy of a file, made and kept, or its own bytes if it needs none.

        Args:
            content: of the file.
            digest: its sha256.

        Raises:
            ImageError: it is no image, or over a limit.
        """
        if self.is_one(content):
            return content
        made = self.made(content)
        self.keep(digest, made)
        return made

    def keep(self, digest: str, made: bytes) -> bool:
        """Keep a copy; False where the disk does not take it."""
        copy = self.place(digest)
        try:
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(copy, made)
        except OSError as error:
            log.warning("no_copy_of_a_picture", copy=str(copy), reason=error.strerror or str(error))
            return False
        return True

    def is_one(self, content: bytes) -> bool:
        """Whether a file needs no copy, as copies themselves do.

        Raises:
            ImageError: it is over a limit.
        """
        if len(content) > self.settings.max_bytes:
            raise ImageError(f"the image has {len(content)} bytes, the limit is {self.settings.max_bytes}")
        return is_plain_jpeg(content, self.longest_px)

    def made(self, content: bytes) -> bytes:
        """The copy of a file.

        Raises:
            ImageError: it is no image, or over a limit.
        """
        return self.drawn(upright(content, self.settings))

    def drawn(self, picture: Image.Image) -> bytes:
        """The copy of a picture that is decoded already, RGB and upright."""
        scale = min(1.0, self.longest_px / max(picture.size))
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        buffer = io.BytesIO()
        # Half the time of Lanczos, and a third of a grey level from it.
        picture.resize(size, Image.Resampling.HAMMING).save(buffer, "JPEG", quality=QUALITY, subsampling=0)
        return buffer.getvalue()


@lru_cache(maxsize=2**17)
def _known(copies: Copies, path: Picture, _state: tuple[int, ...]) -> Picture:
    return copies.looked_up(path)


@dataclass(frozen=True)
class Originals:
    """Files to cut from, one for each row.

    Attributes:
        files: copies, or the files themselves.
        copies: how they are made.
    """

    files: tuple[Picture, ...]
    copies: Copies

    def __len__(self) -> int:
        return len(self.files)

    @property
    def decides(self) -> tuple[object, ...]:
        """What decides a picture but its file, as JSON values."""
        return self.copies.longest_px, QUALITY, SCHEME

    def picture(self, row: int) -> Image.Image:
        """The picture of a row, RGB and upright.

        Raises:
            DatasetError: the file cannot be read.
        """
        path = self.files[row]
        try:
            content = path.read_bytes()
            return decode(content if self.copies.is_one(content) else self.copies.made(content))
        except (OSError, ImageError) as error:
            raise DatasetError(f"{path}: {error}") from error

    def pictures(self, rows: Sequence[int]) -> list[Image.Image]:
        """The pictures of some rows, decoded on all cores.

        Raises:
            DatasetError: a file cannot be read.
        """
        return on_all_cores(self.picture, rows)


def originals_of(
    paths: Sequence[Picture],
    copies: Copies,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    digests: Sequence[str | None] = (),
) -> Originals:
    """What to cut from, of some files.

    Args:
        paths: of the rows.
        copies: where copies are.
        progress: called with files done, files in all, and a note.
        digests: sha256 of each file, where they are known: a file whose copy is there is not read.

    Raises:
        DatasetError: a file cannot be read; names it.
    """
    found: list[Picture] = []
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(paths), MADE_TOGETHER):
            some = slice(start, start + MADE_TOGETHER)
            known = digests[some] or [None] * len(paths[some])
            found += pool.map(partial(_named, copies), paths[some], known)
            progress(len(found), len(paths), "larger copies of the pictures that train")
    return Originals(tuple(found), copies)


def _named(copies: Copies, path: Picture, digest: str | None) -> Picture:
    try:
        if digest is not None and (copy := copies.place(digest)).is_file():
            # What is in use is not swept away.
            os.utime(copy)
            return copy
        return copies.of(path)
    except (OSError, ImageError) as error:
        raise DatasetError(f"{path}: {error}") from error

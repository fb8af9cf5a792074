"""An image file: how its picture stands, and how it becomes pixels. Whoever looks at a picture does it through here."""

from __future__ import annotations

import io
import re
import struct
import traceback
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
import simplejpeg
import structlog
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from stage1.errors import ImageError

log = structlog.get_logger(__name__)

# Refused, and not warned of: Python keeps the text of every warning, and the sender chooses the size that is in it.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# Kinds of errors that nobody expected of a decoder and that are in the log already.
_told: set[str] = set()

FORMATS = ("JPEG", "PNG", "WEBP")
# Cameras and encoders write ten scans at most, and each may be as much work as the whole picture.
SCAN, END, MOST_SCANS = b"\xff\xda", b"\xff\xd9", 24
# The markers of a JPEG with which the end comes, or a length and so many bytes that libjpeg passes over. It looks for
# the next one after any other marker, and in the data of a scan none of these occurs.
MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xef\xfe]")
# Pillow reads the parts of a file one by one, and what is between them byte by byte, in Python: a few megabytes of
# either would take minutes. A picture of 16 MiB takes some thousand readings, and its header is rarely above 1 MiB.
MOST_READINGS, LONGEST_HEADER = 50_000, 4 * 2**20
# What Pillow raises on a file that is no picture, or a damaged one.
UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error)
JPEGS = frozenset({"JPEG", "MPO"})
EXIF_ORIENTATION = 0x0112
# What stands a picture upright. Not `ImageOps.exif_transpose`: it writes the other tags anew and fails on broken ones.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Those that swap width and height.
LYING = (5, 6, 7, 8)


@dataclass(frozen=True)
class ImageLimits:
    """What is decoded at all.

    Attributes:
        max_pixels: largest width x height.
        formats: names of formats, some of `FORMATS`.
    """

    max_pixels: int
    formats: tuple[str, ...] = FORMATS


def decode(content: bytes, limits: ImageLimits | None = None) -> Image.Image:
    """The picture in a file, upright and in RGB.

    A JPEG whose data libjpeg reads without a warning is decoded by simplejpeg, which is faster and gives the pixels of
    Pillow to the bit. Everything else is decoded by Pillow, which shows damaged data as well as they can be shown, as
    browsers do, and refuses data that end too early. How the picture stands has no part in this.

    Args:
        content: an encoded JPEG, PNG or WebP.
        limits: what is decoded at all; None for every format up to the size at which Pillow suspects an attack.

    Raises:
        ImageError: not an image, of another format, cut off, damaged beyond decoding, or over the limit.
    """
    found = decoded(content, limits)
    return Image.fromarray(found) if isinstance(found, np.ndarray) else found


def decoded(content: bytes, limits: ImageLimits | None = None) -> Image.Image | NDArray[np.uint8]:
    """What `decode` makes a picture of: its pixels, uint8 RGB `(H, W, 3)`, where they are at hand, or the picture.

    For who wants the pixels: to wrap them, and to unwrap them again, costs a third of decoding a small picture.

    Args:
        content: see `decode`.
        limits: see `decode`.

    Raises:
        ImageError: see `decode`.
    """
    formats = FORMATS if limits is None else limits.formats
    with _refusing(formats):
        file = _Metered(content)
        image = Image.open(file, formats=formats)
        file.in_header = False
        if limits is not None and image.width * image.height > limits.max_pixels:
            raise ImageError(f"the image is {image.width} x {image.height}, the limit is {limits.max_pixels} pixels")
        # Looked for one by one only where there may be too many.
        if image.format in JPEGS and content.count(SCAN) > MOST_SCANS and (scans := _scans(content)) > MOST_SCANS:
            raise ImageError(f"the image has {scans} scans, the limit is {MOST_SCANS}")
        # Before the orientation: of a PNG that is read by decoding it, and what is cut off must not pass as upright.
        pixels = _sound_jpeg(image, content)
        if pixels is not None and orientation(image) not in UPRIGHT:
            return pixels
        return _turned(image, _by_pillow(image) if pixels is None else Image.fromarray(pixels))


def opened(image: Image.Image, limits: ImageLimits) -> Image.Image:
    """What `decode` makes of the file of a picture that somebody else has opened: upright and in RGB.

    Args:
        image: opened by Pillow, decoded or not.
        limits: the largest picture; its formats are for the caller to choose.

    Raises:
        ImageError: cut off, damaged beyond decoding, or over the limit.
    """
    if image.width * image.height > limits.max_pixels:
        raise ImageError(f"the image is {image.width} x {image.height}, the limit is {limits.max_pixels} pixels")
    with _refusing():
        return _turned(image, _by_pillow(image))


def _turned(image: Image.Image, picture: Image.Image) -> Image.Image:
    turn = UPRIGHT.get(orientation(image))
    return picture if turn is None else picture.transpose(turn)


class _Metered(io.BytesIO):
    """A file that is not read on by a parser that it keeps busy.

    Attributes:
        in_header: what is read belongs to the header.
    """

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.in_header = True
        self._readings = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO.read`.

        Raises:
            ImageError: the file has been read in too many pieces, or its header is too long.
        """
        self._readings += 1
        if self._readings > MOST_READINGS:
            raise ImageError(f"the file is in more than {MOST_READINGS} pieces")
        if self.in_header and self.tell() > LONGEST_HEADER:
            raise ImageError(f"the header of the file is longer than {LONGEST_HEADER} bytes")
        return super().read(size)


def orientation(image: Image.Image) -> int:
    """How the picture stands in its file: 1 to 8 as in EXIF; 1 if the file does not say, or says no such number."""
    try:
        value = image.getexif().get(EXIF_ORIENTATION)
    except MemoryError:
        # The picture may lie all the same, and would be taken for one that stands.
        raise
    except Exception:
        # Cameras and editors write tags that are wrong in any way; the picture is not.
        log.debug("orientation_unreadable", exc_info=True)
        return 1
    return int(value) if isinstance(value, int) and value in UPRIGHT else 1


def is_plain_jpeg(content: bytes, longest_px: int) -> bool:
    """Whether a file is a JPEG in colour that stands as it is stored, and no side is longer; by its header alone.

    Args:
        content: of the file.
        longest_px: most pixels of a side.
    """
    try:
        with _refusing(("JPEG",)), Image.open(_Metered(content), formats=("JPEG",)) as image:
            return image.mode == "RGB" and orientation(image) == 1 and max(image.size) <= longest_px
    except ImageError:
        return False


def frame_size(file: IO[bytes]) -> tuple[int, int]:
    """Width and height in pixels of the picture in a file, upright; of most formats only the header is read.

    Raises:
        ImageError: it is no picture.
    """
    with _refusing(), Image.open(file, formats=FORMATS) as image:
        width, height = image.size
        return (height, width) if orientation(image) in LYING else (width, height)


@contextmanager
def _refusing(formats: Sequence[str] = FORMATS) -> Iterator[None]:
    """Turn what a decoder raises into an `ImageError`."""
    try:
        yield
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image is far too large: {error}") from error
    except UnidentifiedImageError as error:
        # What Pillow says of it is the file as Python shows it.
        raise ImageError(f"not a readable {', '.join(formats)} image: it does not begin like one") from error
    except UNREADABLE as error:
        raise ImageError(f"not a readable {', '.join(formats)} image: {error}") from error
    except Exception as error:
        # A decoder that did not expect this picture, or a fault of ours: the log says where. Once for each line of
        # code, because whoever has such a picture sends many.
        [frame] = traceback.extract_tb(error.__traceback__, limit=-1)
        kind = f"{type(error).__name__} at {frame.filename}:{frame.lineno}"
        if kind not in _told:
            _told.add(kind)
            log.exception("decoder_failed")
        raise ImageError(f"not a readable {', '.join(formats)} image: {error}") from error


def _scans(content: bytes) -> int:
    """Scans of the first picture of a JPEG, without what its header and the bytes behind it hold.

    Raises:
        ImageError: it is in too many pieces.
    """
    found = at = 0
    for _ in range(MOST_READINGS):
        marker = MARKER.search(content, at)
        if marker is None or marker[0] == END:
            return found
        found += marker[0] == SCAN
        at = marker.end() + max(2, int.from_bytes(content[marker.end() : marker.end() + 2]))
    raise ImageError(f"the file is in more than {MOST_READINGS} pieces")


def _sound_jpeg(image: Image.Image, content: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a JPEG in colour whose data are sound, None of every other file."""
    if image.format not in JPEGS or image.mode != "RGB":
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, colorspace="RGB", strict=True)
    except ValueError:
        return None
    # Of two headers Pillow and libjpeg may believe another one.
    return pixels if pixels.shape[1::-1] == image.size else None


def _by_pillow(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        # Pillow would clip 16 bits to 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "P":
        # Pillow warns of colours that are transparent to a degree, and converts them to the same.
        image = image.convert("RGBA")
    return image.convert("RGB")

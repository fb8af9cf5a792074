"""From the bytes of an image to the pixels an engine sees: one code path for training, calibration and serving.

A picture arrives as a native frame of any size, as a square that was cut out of one, or as a frame that was scaled into
a square between black bars. What is done with each:

| arrives as            | `squash`        | `crop`                           | `letterbox`                    |
| --------------------- | --------------- | -------------------------------- | ------------------------------ |
| native frame          | resized whole   | largest square in the middle     | scaled whole, black bars added |
| square without bars   | resized whole   | resized whole                    | resized whole                  |
| square with bars      | resized whole   | bars cut off, then as a frame    | resized whole                  |

So `crop` sees a frame and the same frame between bars at one scale, and so does `letterbox`. `squash` leaves bars
alone: it is what bundles without another geometry were trained and certified with.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from stage1.artifacts import Artifact, sha256_json
from stage1.errors import ImageError
from stage1.image_file import ImageLimits, decode, opened

Pixels = NDArray[np.uint8]
Geometry = Literal["squash", "crop", "letterbox"]

# A bar is exactly black at its outer edge, where JPEG keeps whole blocks black. At its inner edge the block that it
# shares with the picture rings, by up to about this share of the picture's brightness.
BLACK_LINES, RINGING = 8, 1 / 6


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels.

    Attributes:
        left: column of its first pixel.
        top: row of its first pixel.
        width: columns.
        height: rows.
    """

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class Bars:
    """Black bars on two opposite sides of a picture, of the same thickness.

    Attributes:
        rows: black rows at the top, and as many at the bottom.
        columns: black columns on the left, and as many on the right.
    """

    rows: int = 0
    columns: int = 0


NO_BARS = Bars()


@dataclass(frozen=True)
class View:
    """What an engine sees of a picture.

    Attributes:
        part: the part of the picture that is seen.
        place: where in the square it is seen, resized; the rest of the square is black.
    """

    part: Box
    place: Box


class PreprocessSettings(Artifact):
    """How an image becomes engine input; travels with a bundle and is part of its certificate.

    Attributes:
        size_px: side of the square the engine takes.
        geometry: `squash` resizes both sides to `size_px` whatever the aspect ratio; `crop` shows the largest square in
            the middle, without the black bars that a picture arrived with; `letterbox` shows the whole picture between
            black bars. See the table of this module.
        resample: `bilinear` with antialiasing.
        max_bytes: longest encoded image that is decoded.
        max_pixels: largest image, width x height, that is decoded.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    size_px: int = Field(default=224, ge=16, le=2048, multiple_of=16)
    geometry: Geometry = "squash"
    resample: Literal["bilinear"] = "bilinear"
    max_bytes: int = Field(default=16 * 2**20, ge=1)
    max_pixels: int = Field(default=64_000_000, ge=1)

    @property
    def sha256(self) -> str:
        """Hash of everything that can change a pixel or refuse an image."""
        return sha256_json(self.model_dump())


def decode_base64(text: str, settings: PreprocessSettings) -> bytes:
    """The bytes of a base64 image field (standard alphabet, as validators send it).

    Raises:
        ImageError: empty, longer than `max_bytes` when decoded, or not base64.
    """
    if not text:
        raise ImageError("the image field is empty")
    if len(text) > settings.max_bytes * 4 // 3 + 4:
        raise ImageError(
            f"the image field has {len(text)} characters, more than {settings.max_bytes} bytes decode from"
        )
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the image field is not base64: {error}") from error


def preprocess(content: bytes, settings: PreprocessSettings, served: ImageLimits | None = None) -> Pixels:
    """Decode one image and make it the square that an engine sees; see `image_file.decode` and `squared`.

    Args:
        content: an encoded JPEG, PNG or WebP.
        settings: size, geometry and limits.
        served: narrower limits of whoever decodes for strangers; they change no pixel.

    Returns:
        uint8 RGB `(3, size_px, size_px)`, C-contiguous.

    Raises:
        ImageError: not an image, of another format, truncated, or over a limit.
    """
    return _pixels(upright(content, settings, served), settings)


def preprocess_picture(picture: Image.Image, settings: PreprocessSettings) -> Pixels:
    """The pixels that `preprocess` makes of the file of a picture, for who has opened it with Pillow already.

    Args:
        picture: as `PIL.Image.open` returns it; one that was converted has lost how it stands.
        settings: size, geometry and limits.

    Returns:
        uint8 RGB `(3, size_px, size_px)`, C-contiguous.

    Raises:
        ImageError: cut off, damaged beyond decoding, or over a limit.
    """
    return _pixels(opened(picture, ImageLimits(settings.max_pixels)), settings)


def _pixels(image: Image.Image, settings: PreprocessSettings) -> Pixels:
    image = squared(image, settings.geometry, settings.size_px)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def upright(content: bytes, settings: PreprocessSettings, served: ImageLimits | None = None) -> Image.Image:
    """Decode one image and stand it upright; RGB in its own size. See `image_file.decode`.

    Args:
        content: an encoded JPEG, PNG or WebP.
        settings: limits.
        served: as in `preprocess`.

    Raises:
        ImageError: not an image, of another format, cut off, damaged beyond decoding, or over a limit.
    """
    if len(content) > settings.max_bytes:
        raise ImageError(f"the image has {len(content)} bytes, the limit is {settings.max_bytes}")
    if served is None:
        return decode(content, ImageLimits(settings.max_pixels))
    return decode(content, ImageLimits(min(settings.max_pixels, served.max_pixels), served.formats))


def view_of(width: int, height: int, bars: Bars, geometry: Geometry, side_px: int) -> View:
    """What an engine sees of a picture, by the table of this module.

    Sides are rounded as validators round them: `natix/utils/image_transforms.py` of the subnet and torchvision's
    `CenterCrop`.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        bars: that it arrived with.
        geometry: the setting.
        side_px: side of the square.
    """
    whole, square = Box(0, 0, width, height), Box(0, 0, side_px, side_px)
    match geometry:
        case "squash":
            return View(whole, square)
        case "letterbox":
            # A picture of extreme proportions keeps a line of pixels.
            across, down = (max(1, side * side_px // max(width, height)) for side in (width, height))
            return View(whole, Box((side_px - across) // 2, (side_px - down) // 2, across, down))
        case "crop":
            across, down = width - 2 * bars.columns, height - 2 * bars.rows
            side = min(across, down)
            left, top = bars.columns + round((across - side) / 2), bars.rows + round((down - side) / 2)
            return View(Box(left, top, side, side), square)


def bars_of(picture: Image.Image) -> Bars:
    """The bars that a picture arrived with.

    Validators put bars around squares only, on two sides only, and of the same thickness: bars are as thick as the
    thinner one of two opposite sides. A dark sky is no bar, because the sensor's noise is not exactly black and the
    opposite side is lit.

    Args:
        picture: RGB.
    """
    if picture.width != picture.height:
        return NO_BARS
    pixels = np.asarray(picture)
    bars = Bars(_thickness(pixels), _thickness(pixels.transpose(1, 0, 2)))
    return NO_BARS if bars.rows and bars.columns else bars


def _thickness(lines: NDArray[np.uint8]) -> int:
    """Lines of the thinner bar at the first and the last of N lines, `(N, M, 3)`; 0 if one of them has none."""
    if lines[:BLACK_LINES].any() or lines[-BLACK_LINES:].any():
        return 0
    brightest = lines.max(axis=(1, 2))
    if not brightest.any():
        return 0
    # Not the brightest line of all, which at night shows a lamp.
    usual = float(np.median(brightest[brightest > 0]))
    picture = np.flatnonzero(brightest > usual * RINGING)
    return min(int(picture[0]), len(lines) - 1 - int(picture[-1]))


def squared(picture: Image.Image, geometry: Geometry, side_px: int) -> Image.Image:
    """A picture as the square that an engine sees, resized with antialiasing.

    Args:
        picture: RGB, upright.
        geometry: the setting.
        side_px: side of the square.
    """
    # The other geometries show bars as they are.
    bars = bars_of(picture) if geometry == "crop" else NO_BARS
    return seen(picture, view_of(picture.width, picture.height, bars, geometry, side_px), side_px)


def seen(picture: Image.Image, view: View, side_px: int) -> Image.Image:
    """A view of a picture as a square of `side_px`, resized with antialiasing.

    Args:
        picture: RGB.
        view: of it.
        side_px: side of the square.
    """
    part, place = view.part, view.place
    if (part.width, part.height) != picture.size:
        # Not the box of `resize`, which also weighs pixels outside of it.
        picture = picture.crop((part.left, part.top, part.left + part.width, part.top + part.height))
    picture = picture.resize((place.width, place.height), Image.Resampling.BILINEAR)
    if picture.size == (side_px, side_px):
        return picture
    square = Image.new("RGB", (side_px, side_px))
    square.paste(picture, (place.left, place.top))
    return square

"""From the bytes of an image to the pixels an engine sees: one code path for training, calibration and serving.

A picture arrives as a native frame of any size, as a square that was cut out of one, or as a frame that was scaled into
a square between black bars. What is done with each:

| arrives as            | `squash`        | `crop`                           | `letterbox`                    |
| --------------------- | --------------- | -------------------------------- | ------------------------------ |
| native frame          | resized whole   | largest square in the middle     | scaled whole, black bars added |
| square without bars   | resized whole   | resized whole                    | resized whole                  |
| square with bars      | resized whole   | bars cut off, then as a frame    | resized whole                  |

| arrives as            | `wide` and `tiles`                                                                  |
| --------------------- | ----------------------------------------------------------------------------------- |
| native frame          | scaled whole into the middle of the rectangle, black where it does not reach        |
| square without bars   | the same, so that it is black on the left and on the right                          |
| square with bars      | bars cut off, then as a frame                                                       |

So `crop` sees a frame and the same frame between bars at one scale, and so do `letterbox`, `wide` and `tiles`. These
two also see the largest square of a lying frame at the scale of the frame, or a little nearer where the rectangle is
higher than the frame in it: one engine of one shape answers all that arrives. `squash` leaves bars alone: it is what
bundles without another geometry were trained and certified with.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, model_validator

from stage1.artifacts import Artifact, sha256_json
from stage1.errors import ImageError
from stage1.image_file import ImageLimits, decode, decoded, opened

Pixels = NDArray[np.uint8]
Geometry = Literal["squash", "crop", "letterbox", "wide", "tiles"]
# Height and width in px.
Shape = tuple[int, int]

# Sides of the patches of the backbones that there are: an input is cut into whole ones.
PATCHES_PX = (14, 16)
# Cameras' frames, and what the width of `wide` is rounded to.
WIDE, WIDE_STEP_PX = Fraction(16, 9), 16
# Of an input, as much as the largest square has.
MOST_PIXELS = 2048 * 2048
# Tiles where the settings do not say how many.
TILES = {"rows": 2, "columns": 3}

CUT_BARS: frozenset[Geometry] = frozenset({"crop", "wide", "tiles"})

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
        place: where in the input it is seen, resized; the rest of the input is black.
    """

    part: Box
    place: Box


def _absent(value: object) -> bool:
    return value is None


class PreprocessSettings(Artifact):
    """How an image becomes engine input; travels with a bundle and is part of its certificate.

    What only some geometries have is left out of the file of the others, whose hash it would change.

    Attributes:
        size_px: side of the square that the engine takes; of `wide` the height, of `tiles` the side of each
            tile. A multiple of the patches of the backbone, 16 px or 14 px.
        geometry: `squash` resizes both sides to `size_px` whatever the aspect ratio; `crop` shows the largest square in
            the middle, without the black bars that a picture arrived with; `letterbox` shows the whole picture between
            black bars; `wide` shows the whole picture in a rectangle of 16:9; `tiles` shows it in a rectangle of
            `rows` x `columns` squares, which the network looks at one by one beside the whole. See the tables of this
            module.
        width_px: width of `wide`; None for 16/9 of the height, rounded to whole 16 px.
        rows: rows of tiles of `tiles`; default 2.
        columns: columns of tiles of `tiles`; default 3.
        resample: `bilinear` with antialiasing.
        max_bytes: longest encoded image that is decoded.
        max_pixels: largest image, width x height, that is decoded.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    size_px: int = Field(default=224, ge=16, le=2048)
    geometry: Geometry = "squash"
    width_px: int | None = Field(default=None, ge=16, le=4096, exclude_if=_absent)
    rows: int | None = Field(default=None, ge=1, le=8, exclude_if=_absent)
    columns: int | None = Field(default=None, ge=1, le=8, exclude_if=_absent)
    resample: Literal["bilinear"] = "bilinear"
    max_bytes: int = Field(default=16 * 2**20, ge=1)
    max_pixels: int = Field(default=64_000_000, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _tiles_by_default(cls, content: Any) -> Any:  # noqa: ANN401  whatever somebody gives
        if isinstance(content, dict) and content.get("geometry") == "tiles":
            return content | {name: most for name, most in TILES.items() if content.get(name) is None}
        return content

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, belongs in (("width_px", "wide"), ("rows", "tiles"), ("columns", "tiles")):
            if getattr(self, name) is not None and self.geometry != belongs:
                raise ValueError(f"{name} is of the geometry {belongs}, and this one is {self.geometry}: leave it out")
        height, width = self.shape
        if not any(height % patch == 0 and width % patch == 0 for patch in PATCHES_PX):
            raise ValueError(
                f"an input of {height} x {width} px (height x width) is not cut into whole patches of 14 or 16 px: "
                f"choose {'another size_px' if self.geometry != 'wide' else 'another size_px or width_px'}"
            )
        if height * width > MOST_PIXELS:
            raise ValueError(
                f"an input of {height} x {width} px (height x width) has more than {MOST_PIXELS} pixels: lower size_px"
                f"{', rows or columns' if self.geometry == 'tiles' else ''}"
            )
        return self

    @property
    def shape(self) -> Shape:
        """Height and width of the engine's input, px."""
        match self.geometry:
            case "wide":
                rounded = round(self.size_px * WIDE / WIDE_STEP_PX) * WIDE_STEP_PX
                return self.size_px, rounded if self.width_px is None else self.width_px
            case "tiles":
                return self.size_px * (self.rows or 1), self.size_px * (self.columns or 1)
            case _:
                return self.size_px, self.size_px

    @property
    def tiles(self) -> tuple[int, int] | None:
        """Rows and columns of tiles that the network cuts the input into; None where it looks at it whole."""
        return (self.rows or 1, self.columns or 1) if self.geometry == "tiles" else None

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
    """Decode one image and make it the input that an engine sees; see `image_file.decode` and `framed`.

    Args:
        content: an encoded JPEG, PNG or WebP.
        settings: size, geometry and limits.
        served: narrower limits of whoever decodes for strangers; they change no pixel.

    Returns:
        uint8 RGB `(3, *settings.shape)`, C-contiguous.

    Raises:
        ImageError: not an image, of another format, truncated, or over a limit.
    """
    found = decoded(content, _limits(content, settings, served))
    if isinstance(found, np.ndarray):
        if found.shape[:2] == settings.shape and settings.geometry not in CUT_BARS:
            # What validators cut to the size of the input is seen as it is.
            return _planes(found)
        found = Image.fromarray(found)
    return _pixels(found, settings)


def preprocess_picture(picture: Image.Image, settings: PreprocessSettings) -> Pixels:
    """The pixels that `preprocess` makes of the file of a picture, for who has opened it with Pillow already.

    Args:
        picture: as `PIL.Image.open` returns it; one that was converted has lost how it stands.
        settings: size, geometry and limits.

    Returns:
        uint8 RGB `(3, *settings.shape)`, C-contiguous.

    Raises:
        ImageError: cut off, damaged beyond decoding, or over a limit.
    """
    return _pixels(opened(picture, ImageLimits(settings.max_pixels)), settings)


def _pixels(image: Image.Image, settings: PreprocessSettings) -> Pixels:
    return _planes(np.asarray(framed(image, settings.geometry, settings.shape)))


def _planes(pixels: NDArray[np.uint8]) -> Pixels:
    """Pixels `(H, W, 3)` as `(3, H, W)`."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def upright(content: bytes, settings: PreprocessSettings) -> Image.Image:
    """Decode one image and stand it upright; RGB in its own size. See `image_file.decode`.

    Args:
        content: an encoded JPEG, PNG or WebP.
        settings: limits.

    Raises:
        ImageError: not an image, of another format, cut off, damaged beyond decoding, or over a limit.
    """
    return decode(content, _limits(content, settings, None))


def _limits(content: bytes, settings: PreprocessSettings, served: ImageLimits | None) -> ImageLimits:
    """What of this file may be decoded.

    Raises:
        ImageError: it has too many bytes.
    """
    if len(content) > settings.max_bytes:
        raise ImageError(f"the image has {len(content)} bytes, the limit is {settings.max_bytes}")
    if served is None:
        return ImageLimits(settings.max_pixels)
    return ImageLimits(min(settings.max_pixels, served.max_pixels), served.formats)


def view_of(width: int, height: int, bars: Bars, geometry: Geometry, shape: Shape) -> View:
    """What an engine sees of a picture, by the tables of this module.

    In squares, sides are rounded as validators round them: `natix/utils/image_transforms.py` of the subnet and
    torchvision's `CenterCrop`.

    Args:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        bars: that it arrived with.
        geometry: the setting.
        shape: height and width of the input; one side twice for geometries of squares.
    """
    whole, everywhere, side_px = Box(0, 0, width, height), Box(0, 0, shape[1], shape[0]), shape[0]
    lit = Box(bars.columns, bars.rows, width - 2 * bars.columns, height - 2 * bars.rows)
    match geometry:
        case "squash":
            return View(whole, everywhere)
        case "letterbox":
            # A picture of extreme proportions keeps a line of pixels.
            across, down = (max(1, side * side_px // max(width, height)) for side in (width, height))
            return View(whole, _in_the_middle(across, down, shape))
        case "crop":
            side = min(lit.width, lit.height)
            left, top = lit.left + round((lit.width - side) / 2), lit.top + round((lit.height - side) / 2)
            return View(Box(left, top, side, side), everywhere)
        case "wide" | "tiles":
            scale = min(Fraction(shape[1], lit.width), Fraction(shape[0], lit.height))
            across, down = (max(1, round(side * scale)) for side in (lit.width, lit.height))
            return View(lit, _in_the_middle(across, down, shape))


def _in_the_middle(across: int, down: int, shape: Shape) -> Box:
    return Box((shape[1] - across) // 2, (shape[0] - down) // 2, across, down)


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


def framed(picture: Image.Image, geometry: Geometry, shape: Shape) -> Image.Image:
    """A picture as the input that an engine sees, resized with antialiasing.

    Args:
        picture: RGB, upright.
        geometry: the setting.
        shape: height and width of the input, px.
    """
    # The other geometries show bars as they are.
    bars = bars_of(picture) if geometry in CUT_BARS else NO_BARS
    return seen(picture, view_of(picture.width, picture.height, bars, geometry, shape), shape)


def seen(picture: Image.Image, view: View, shape: Shape) -> Image.Image:
    """A view of a picture, resized with antialiasing; black around it.

    Args:
        picture: RGB.
        view: of it.
        shape: height and width of what is returned, px.
    """
    part, place = view.part, view.place
    if (part.width, part.height) != picture.size:
        # Not the box of `resize`, which also weighs pixels outside of it.
        picture = picture.crop((part.left, part.top, part.left + part.width, part.top + part.height))
    picture = picture.resize((place.width, place.height), Image.Resampling.BILINEAR)
    if picture.size == (shape[1], shape[0]):
        return picture
    frame = Image.new("RGB", (shape[1], shape[0]))
    frame.paste(picture, (place.left, place.top))
    return frame

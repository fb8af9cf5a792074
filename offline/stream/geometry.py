"""Where the pixels of a challenge come from: squares cut out of a picture, black bars around it, rotations.

Source: `natix/utils/image_transforms.py` of the subnet, by what it does when it is run. Its rotation is asked for
bilinear sampling and drops the argument, so it takes the nearest pixel; its flips never happen.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from stage1.preprocess import NO_BARS, Box, Geometry, Pixels, seen, view_of

SIDE_PX = 224
ROTATION_DEGREES = 20.0
# Share of the picture's area that a random square has.
CUT_AREA = (0.2, 1.0)
CUT_ATTEMPTS = 10


def centre_cut(picture: Image.Image) -> Image.Image:
    """The largest square in the middle, resized to `SIDE_PX` with antialiasing."""
    return _squared(picture, "crop")


def letterbox(picture: Image.Image) -> Image.Image:
    """The whole picture in the middle of a black square of `SIDE_PX`; its new sides are rounded down."""
    return _squared(picture, "letterbox")


def _squared(picture: Image.Image, geometry: Geometry) -> Image.Image:
    # Validators do not look for bars that a picture has already.
    shape = SIDE_PX, SIDE_PX
    return seen(picture, view_of(picture.width, picture.height, NO_BARS, geometry, shape), shape)


def random_angle(rng: np.random.Generator) -> float:
    """Degrees, counter-clockwise."""
    return float(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))


def random_cut(size: tuple[int, int], rng: np.random.Generator) -> Box:
    """A square of random area and place, as torchvision's `RandomResizedCrop` draws it at a ratio of 1.

    An area whose square does not fit is drawn again; after `CUT_ATTEMPTS` it is the largest square in the middle.

    Args:
        size: width and height of the picture.
        rng: draws it.
    """
    width, height = size
    for _ in range(CUT_ATTEMPTS):
        side = round(math.sqrt(width * height * rng.uniform(*CUT_AREA)))
        if 0 < side <= min(size):
            top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
            return Box(left, top, side, side)
    side = min(size)
    return Box((width - side) // 2, (height - side) // 2, side, side)


def rotated_part(picture: Image.Image, degrees: float, box: Box) -> Image.Image:
    """A part of a picture after a rotation about its middle that keeps its size: nearest pixels, black outside.

    Only the part is computed.

    Args:
        picture: RGB.
        degrees: counter-clockwise.
        box: the part, in pixels of the rotated picture.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    across, down = picture.width / 2, picture.height / 2
    # From a pixel of the part to one of the picture, both measured from the corner.
    x, y = box.left - across, box.top - down
    to_source = (cos, -sin, cos * x - sin * y + across, sin, cos, sin * x + cos * y + down)
    return picture.transform(
        (box.width, box.height), Image.Transform.AFFINE, to_source, resample=Image.Resampling.NEAREST
    )


def resized(picture: Image.Image) -> Pixels:
    """A picture resized to `SIDE_PX`, antialiased, in floating point and then truncated to whole values.

    Returns:
        uint8 `(SIDE_PX, SIDE_PX, 3)`.
    """
    pixels = np.empty((SIDE_PX, SIDE_PX, 3), np.uint8)
    for channel, plane in enumerate(picture.split()):
        # Means of bytes stay in their range; to assign them truncates.
        pixels[..., channel] = np.asarray(plane.convert("F").resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR))
    return pixels

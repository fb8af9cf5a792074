"""Images that servers are tried with."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIDE_PX = 224


def black_image() -> bytes:
    """A JPEG of nothing, 224 px square."""
    return _jpeg(Image.new("RGB", (SIDE_PX, SIDE_PX)))


def noise_image() -> bytes:
    """A JPEG of coloured noise, 224 px square, always the same."""
    noise = np.random.default_rng(0).integers(0, 256, (SIDE_PX, SIDE_PX, 3), np.uint8)
    return _jpeg(Image.fromarray(noise))


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()

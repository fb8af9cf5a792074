"""An image that servers are tried with."""

from __future__ import annotations

import io

from PIL import Image


def black_image() -> bytes:
    """A JPEG of nothing, 224 px square."""
    buffer = io.BytesIO()
    Image.new("RGB", (224, 224)).save(buffer, "JPEG")
    return buffer.getvalue()

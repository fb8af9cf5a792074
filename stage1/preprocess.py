"""From the bytes of an image to the pixels an engine sees: one code path for evaluation, calibration and serving."""

from __future__ import annotations

import base64
import binascii
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from stage1.artifacts import Artifact, sha256_json
from stage1.errors import ImageError
from stage1.image_file import ImageLimits, decode

Pixels = NDArray[np.uint8]


class PreprocessSettings(Artifact):
    """How an image becomes engine input; travels with a bundle and is part of its certificate.

    Attributes:
        size_px: side of the square the engine takes.
        geometry: `squash` resizes both sides to `size_px` whatever the aspect ratio.
        resample: `bilinear` with antialiasing.
        max_bytes: longest encoded image that is decoded.
        max_pixels: largest image, width x height, that is decoded.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    size_px: int = Field(default=224, ge=16, le=2048, multiple_of=16)
    geometry: Literal["squash"] = "squash"
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
    """Decode and resize one image; see `image_file.decode`.

    Args:
        content: an encoded JPEG, PNG or WebP.
        settings: size and limits.
        served: narrower limits of whoever decodes for strangers; they change no pixel.

    Returns:
        uint8 RGB `(3, size_px, size_px)`, C-contiguous.

    Raises:
        ImageError: not an image, of another format, truncated, or over a limit.
    """
    image = upright(content, settings, served)
    size = (settings.size_px, settings.size_px)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
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

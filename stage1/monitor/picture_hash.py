"""A perceptual hash of 64 bits, from the pixels that an engine has seen anyway.

References:
    Zauner (2010), Implementation and benchmarking of perceptual image hash functions (the hash of DCT coefficients).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

KEPT = 8
# Of the coefficients, grey values: less varied than this, a picture shows nothing by which it could be known again.
BLANK_CONTRAST = 0.5


def picture_hash(pixels: NDArray[np.uint8]) -> int | None:
    """The hash of a picture: which of its 8 x 8 longest waves are stronger than most; None if it is blank.

    Args:
        pixels: uint8 RGB `(3, H, W)`.
    """
    height, width = pixels.shape[1:]
    # Green is most of what is seen as brightness, and one plane is read three times as fast as all.
    grey = pixels[1].astype(np.float32)
    spectrum = _waves(height) @ (grey @ _waves(width).T)
    if float(np.abs(spectrum).max()) < BLANK_CONTRAST:
        return None
    bits = np.packbits(spectrum > np.median(spectrum))
    return int.from_bytes(bits.tobytes(), "big")


@lru_cache(maxsize=8)
def _waves(side: int) -> NDArray[np.float32]:
    """The longest eight cosine waves over a side that are not flat, `(8, side)`, each a mean over the side."""
    frequencies = np.arange(1, KEPT + 1)[:, None]
    waves = np.cos(np.pi * frequencies * (2 * np.arange(side) + 1) / (2 * side)) / side
    return waves.astype(np.float32)

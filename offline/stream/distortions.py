"""Colours, contrast, detail, noise and blur of a challenge, each at a strength from a table; strength 0 is none.

All of them take and return uint8 RGB pixels `(H, W, 3)`. Values are truncated to whole ones, and not rounded.

Sources:
    Jiang, Li, Wu, Qian, Loy (2020), DeeperForensics-1.0, arXiv 2001.03024 (where the subnet took them from).
    `natix/utils/image_transforms.py` of the subnet, by what it does when it is run. Its "JPEG compression" is none: it
    makes the picture smaller and large again, without antialiasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import correlate1d

from stage1.preprocess import Pixels

# By strength: share of the chroma that is kept, factor, divisor of the sides, variance, taps.
CHROMA = (1.0, 0.4, 0.3)
CONTRAST = (1.0, 0.85, 0.725)
SHRINK = (1, 2, 3)
NOISE_VARIANCE = (0.0, 0.001, 0.002)
BLUR_TAPS = (1, 7, 9)

# The colour space of OpenCV, rows Y, Cb, Cr, then squeezed into the range of a video signal.
LUMA = (0.299, 0.587, 0.114)
BLUE, RED = 0.564, 0.713
TO_YCBCR = np.array([LUMA, [-BLUE * LUMA[0], -BLUE * LUMA[1], BLUE * (1 - LUMA[2])], [0.0, 0.0, 0.0]])
TO_YCBCR[2] = RED * (np.array([1.0, 0.0, 0.0]) - LUMA)
TO_RGB = np.array([[1.0, 0.0, 1.403], [1.0, -0.344, -0.714], [1.0, 1.773, 0.0]])
LUMA_RANGE, CHROMA_RANGE = 235 - 16, 240 - 16
# Zero chroma in that range is 128 / 255, and it is shrunk towards 0.5.
CHROMA_ZERO_OFFSET = 0.5


def less_chroma(pixels: Pixels, strength: int, _rng: np.random.Generator) -> Pixels:
    """Nearly grey; a little of the darkness comes from truncation."""
    keep = CHROMA[strength]
    matrix = TO_RGB @ np.diag([1.0, keep, keep]) @ TO_YCBCR
    shift = (keep - 1) * CHROMA_ZERO_OFFSET / CHROMA_RANGE
    offset = TO_RGB @ np.array([0.0, shift, shift])
    return _whole(pixels.astype(np.float32) @ matrix.T.astype(np.float32) + offset.astype(np.float32))


def less_contrast(pixels: Pixels, strength: int, _rng: np.random.Generator) -> Pixels:
    """Darker by a factor."""
    return _whole(np.arange(256, dtype=np.float32) * np.float32(CONTRAST[strength])).take(pixels)


def coarse(pixels: Pixels, strength: int, _rng: np.random.Generator) -> Pixels:
    """Smaller by a divisor and large again, bilinear without antialiasing, as OpenCV does it."""
    height, width = pixels.shape[:2]
    return _bilinear(_bilinear(pixels, height // SHRINK[strength], width // SHRINK[strength]), height, width)


def noisy(pixels: Pixels, strength: int, rng: np.random.Generator) -> Pixels:
    """Independent Gaussian noise on Y, Cb and Cr; the range of the video signal makes it stronger by a seventh."""
    deviation = 255 * math.sqrt(NOISE_VARIANCE[strength])
    spread = deviation * 255 / np.array([LUMA_RANGE, CHROMA_RANGE, CHROMA_RANGE])
    to_rgb = (TO_RGB @ np.diag(spread)).T.astype(np.float32)
    # There and back through the colour space, whose coefficients are no exact inverses of each other.
    through = (TO_RGB @ TO_YCBCR).T.astype(np.float32)
    values = pixels.astype(np.float32) @ through
    values += rng.standard_normal(pixels.shape, np.float32) @ to_rgb
    return _whole(values)


def blurred(pixels: Pixels, strength: int, _rng: np.random.Generator) -> Pixels:
    """A Gaussian of so many taps and a standard deviation of a sixth of them, mirrored at the edges, rounded."""
    kernel = _gaussian(BLUR_TAPS[strength])
    once = correlate1d(pixels.astype(np.float32), kernel, axis=0, mode="mirror")
    return np.rint(correlate1d(once, kernel, axis=1, mode="mirror")).astype(np.uint8)


DISTORTIONS: tuple[Callable[[Pixels, int, np.random.Generator], Pixels], ...] = (
    less_chroma,
    less_contrast,
    coarse,
    noisy,
    blurred,
)


def _whole(values: NDArray[np.float32]) -> Pixels:
    return values.clip(0, 255, out=values).astype(np.uint8)


@cache
def _gaussian(taps: int) -> NDArray[np.float64]:
    offsets = np.arange(taps) - taps // 2
    kernel = np.exp(-0.5 * (offsets * 6 / taps) ** 2)
    return np.asarray(kernel / kernel.sum())


def _bilinear(pixels: Pixels, height: int, width: int) -> Pixels:
    """Each side by the two nearest pixels, rounded at the end."""
    values = pixels.astype(np.float32)
    for axis, side in ((0, height), (1, width)):
        low, high, part = _neighbours(pixels.shape[axis], side)
        first, second = values.take(low, axis), values.take(high, axis)
        second -= first
        second *= part[:, None, None] if axis == 0 else part[:, None]
        values = first
        values += second
    return np.rint(values, out=values).astype(np.uint8)


@cache
def _neighbours(old: int, new: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each pixel of the new side, the two of the old one that it lies between, and the share of the second."""
    at = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    low = np.floor(at).astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (at - low).astype(np.float32)

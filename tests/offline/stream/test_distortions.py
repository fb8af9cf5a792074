"""Each distortion against its definition, step by step, and against the measured table."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.stream.distortions import DISTORTIONS, LUMA, blurred, coarse, less_chroma, less_contrast, noisy
from offline.stream.geometry import centre_cut
from tests.support.challenges import patches

Floats = NDArray[np.float32]

# Mean absolute difference and mean luminance at strengths 1 and 2 on a picture of mean luminance 0.498, as measured.
MEASURED = {
    less_chroma: ((0.109, 0.496), (0.128, 0.496)),
    less_contrast: ((0.077, 0.422), (0.139, 0.359)),
    coarse: ((0.007, 0.498), (0.010, 0.498)),
    noisy: ((0.048, 0.498), (0.067, 0.498)),
    blurred: ((0.008, 0.498), (0.010, 0.498)),
}


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    return np.asarray(centre_cut(patches()))


@pytest.mark.parametrize("distort", DISTORTIONS)
@pytest.mark.parametrize("strength", [1, 2])
def test_the_measured_table(pixels: NDArray[np.uint8], distort: object, strength: int) -> None:
    """Another picture of the same brightness, colour and detail: differences within 10 %, or half of the last digit."""
    difference, luminance = MEASURED[distort][strength - 1]  # type: ignore[index]
    out = distort(pixels, strength, np.random.default_rng(0))  # type: ignore[operator]
    found = float(np.abs(out.astype(float) - pixels).mean() / 255)
    assert found == pytest.approx(difference, rel=0.10, abs=0.0005)
    # In the proportions of the measured picture, whose luminance was 0.498.
    assert float((out @ LUMA).mean() / (pixels @ LUMA).mean()) == pytest.approx(luminance / 0.498, abs=0.004)


def to_ycbcr(bgr: Floats) -> Floats:
    """OpenCV's `BGR2YCR_CB` of floating-point pixels, then into the range of a video signal."""
    blue, green, red = np.moveaxis(bgr.astype(np.float32), -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [(blue - luma) * 0.564 + 0.5, (red - luma) * 0.713 + 0.5]
    scaled = [(luma * (235 - 16) + 16) / 255, *((one * (240 - 16) + 16) / 255 for one in chroma)]
    return np.stack(scaled, axis=-1).astype(np.float32)


def to_bgr(ycbcr: Floats) -> Floats:
    """The way back."""
    luma = (ycbcr[..., 0] * 255 - 16) / (235 - 16)
    blue, red = ((ycbcr[..., k] * 255 - 16) / (240 - 16) - 0.5 for k in (1, 2))
    return np.stack([luma + 1.773 * blue, luma - 0.714 * red - 0.344 * blue, luma + 1.403 * red], axis=-1)


@pytest.mark.parametrize(("strength", "keep"), [(1, 0.4), (2, 0.3)])
def test_chroma_is_shrunk_in_the_colour_space_of_validators(
    pixels: NDArray[np.uint8], strength: int, keep: float
) -> None:
    ycbcr = to_ycbcr(pixels[..., ::-1].astype(np.float32))
    ycbcr[..., 1:] = 0.5 + (ycbcr[..., 1:] - 0.5) * keep
    expected = to_bgr(ycbcr)[..., ::-1].astype(np.uint8)
    out = less_chroma(pixels, strength, np.random.default_rng(0))
    # Single precision decides the truncation of a value that is whole.
    assert np.abs(out.astype(int) - expected).max() <= 1
    assert (out != expected).mean() < 0.02


@pytest.mark.parametrize(("strength", "variance"), [(1, 0.001), (2, 0.002)])
def test_noise_is_added_in_the_colour_space_of_validators(
    pixels: NDArray[np.uint8], strength: int, variance: float
) -> None:
    drawn = np.random.default_rng(5).standard_normal(pixels.shape, np.float32)
    ycbcr = to_ycbcr(pixels[..., ::-1].astype(np.float32)) / 255
    noise = to_bgr((ycbcr + math.sqrt(variance) * drawn) * 255)
    expected = np.clip(noise[..., ::-1], 0, 255).astype(np.uint8)
    out = noisy(pixels, strength, np.random.default_rng(5))
    assert np.abs(out.astype(int) - expected).max() <= 1
    assert (out != expected).mean() < 0.02


@pytest.mark.parametrize(("strength", "factor"), [(1, 0.85), (2, 0.725)])
def test_contrast_is_a_factor_and_truncated(pixels: NDArray[np.uint8], strength: int, factor: float) -> None:
    expected = (pixels.astype(np.float32) * factor).astype(np.uint8)
    assert np.array_equal(less_contrast(pixels, strength, np.random.default_rng(0)), expected)


def bilinear_by_definition(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """Each pixel from the four around its centre, in a plain loop."""
    old = len(pixels)
    out = np.empty((side, side, 3))
    for row in range(side):
        for column in range(side):
            y, x = ((place + 0.5) * old / side - 0.5 for place in (row, column))
            total = np.zeros(3)
            for r, c in ((math.floor(y) + i, math.floor(x) + j) for i in (0, 1) for j in (0, 1)):
                share = max(0.0, 1 - abs(y - r)) * max(0.0, 1 - abs(x - c))
                total += share * pixels[min(max(r, 0), old - 1), min(max(c, 0), old - 1)]
            out[row, column] = total
    return out


@pytest.mark.parametrize(("strength", "divisor"), [(1, 2), (2, 3)])
def test_detail_is_lost_by_going_down_and_up_without_antialiasing(strength: int, divisor: int) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (44, 44, 3), dtype=np.uint8)
    small = np.rint(bilinear_by_definition(rough, 44 // divisor)).astype(np.uint8)
    expected = bilinear_by_definition(small, 44)
    out = coarse(rough, strength, np.random.default_rng(0))
    assert np.abs(out - expected).max() <= 1.5
    assert np.abs(out - expected).mean() < 0.3


@pytest.mark.parametrize(("strength", "taps"), [(1, 7), (2, 9)])
def test_blur_is_a_mirrored_gaussian_of_a_sixth_of_its_taps(strength: int, taps: int) -> None:
    rough = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    reach = taps // 2
    weights = np.array(
        [
            [math.exp(-(x * x + y * y) / (2 * (taps / 6) ** 2)) for x in range(-reach, reach + 1)]
            for y in range(-reach, reach + 1)
        ]
    )
    padded = np.pad(rough.astype(float), ((reach, reach), (reach, reach), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (taps, taps), axis=(0, 1))
    expected = np.einsum("yxcij,ij->yxc", windows, weights / weights.sum())
    assert np.abs(blurred(rough, strength, np.random.default_rng(0)) - expected).max() < 0.51

"""Squares, bars and rotations, against the definition and against what was measured of the validators' own code."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from offline.stream.geometry import (
    SIDE_PX,
    centre_cut,
    letterbox,
    random_angle,
    random_cut,
    resized,
    rotated_part,
)
from stage1.preprocess import Box
from tests.support.challenges import patches, placed

Shape = tuple[int, int]


def nearest_by_definition(pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """torchvision's rotation: the grid of `affine_grid` without aligned corners, then the nearest pixel, else 0."""
    height, width = pixels.shape[:2]
    x, y = np.meshgrid(np.arange(width) - width / 2 + 0.5, np.arange(height) - height / 2 + 0.5)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    columns = np.rint(cos * x - sin * y + width / 2 - 0.5).astype(int)
    rows = np.rint(sin * x + cos * y + height / 2 - 0.5).astype(int)
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    found = pixels[rows.clip(0, height - 1), columns.clip(0, width - 1)]
    out: NDArray[np.uint8] = np.where(inside[..., None], found, 0)
    return out


def antialiased_by_definition(pixels: NDArray[np.uint8], side: int) -> NDArray[np.float64]:
    """A triangle as wide as the shrinking, one axis after the other, in double precision."""

    def weights(old: int) -> NDArray[np.float64]:
        scale = old / side
        reach = max(scale, 1.0)
        centres = (np.arange(side) + 0.5) * scale
        away = np.abs(np.arange(old)[None, :] + 0.5 - centres[:, None]) / reach
        triangle = np.clip(1 - away, 0, None)
        shares: NDArray[np.float64] = triangle / triangle.sum(1, keepdims=True)
        return shares

    rows, columns = weights(pixels.shape[0]), weights(pixels.shape[1])
    out: NDArray[np.float64] = np.einsum("yh,hwc,xw->yxc", rows, pixels.astype(np.float64), columns, optimize=True)
    return out


@pytest.mark.parametrize("degrees", [-20.0, -7.3, 0.0, 1.0, 19.0])
@pytest.mark.parametrize("size", [(200, 120), (121, 200), (64, 64)])
def test_a_rotation_takes_nearest_pixels_and_is_black_outside(size: Shape, degrees: float) -> None:
    picture = placed(*size)
    rotated = np.asarray(rotated_part(picture, degrees, Box(0, 0, *size)))
    # Fixed-point coordinates decide a few pixels that lie between two otherwise.
    assert (rotated != nearest_by_definition(np.asarray(picture), degrees)).any(-1).mean() < 0.002
    there = rotated[..., 2] > 0
    assert set(np.unique(rotated[..., 2]).tolist()) <= {0, 200}
    known = {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}
    assert {tuple(pixel) for pixel in rotated[there].tolist()} <= known


def test_every_value_of_a_rotated_picture_is_a_value_of_the_picture() -> None:
    """100 % of them, as measured: nothing is mixed."""
    picture = patches()
    known = {tuple(pixel) for pixel in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()} | {(0, 0, 0)}
    rotated = np.asarray(rotated_part(picture, 13.7, Box(0, 0, 1280, 720)))
    assert {tuple(pixel) for pixel in np.unique(rotated.reshape(-1, 3), axis=0).tolist()} <= known


def test_a_part_of_a_rotated_picture_is_cut_out_of_the_whole() -> None:
    picture, box = placed(240, 180), Box(37, 21, 96, 96)
    whole = np.asarray(rotated_part(picture, -11.0, Box(0, 0, 240, 180)))
    part = np.asarray(rotated_part(picture, -11.0, box))
    assert (part != whole[21:117, 37:133]).any(-1).mean() < 0.002


def test_a_square_that_is_rotated_by_19_degrees_loses_12_percent_to_its_corners() -> None:
    white = Image.new("RGB", (224, 224), (255, 255, 255))
    rotated = np.asarray(rotated_part(white, 19.0, Box(0, 0, 224, 224)))
    assert (rotated == 0).mean() == pytest.approx(0.12, abs=0.005)


def test_angles_are_even_over_20_degrees_to_both_sides() -> None:
    rng = np.random.default_rng(0)
    angles = np.array([random_angle(rng) for _ in range(4000)])
    assert np.abs(angles).max() <= 20
    assert np.quantile(angles, [0.05, 0.5, 0.95]) == pytest.approx([-18, 0, 18], abs=0.7)


def test_random_squares_are_as_large_as_measured() -> None:
    """On 1280 x 720: 452, 592 and 712 pixels at 5, 50 and 95 %; everywhere inside the picture."""
    rng = np.random.default_rng(0)
    boxes = [random_cut((1280, 720), rng) for _ in range(4000)]
    assert np.quantile([box.width for box in boxes], [0.05, 0.5, 0.95]) == pytest.approx([452, 592, 712], abs=6)
    assert all(box.width == box.height for box in boxes)
    assert min(box.left for box in boxes) == 0
    assert min(box.top for box in boxes) == 0
    assert max(box.left + box.width for box in boxes) == 1280
    assert max(box.top + box.height for box in boxes) == 720


def test_a_picture_that_no_square_fits_is_cut_in_its_middle() -> None:
    assert random_cut((700, 100), np.random.default_rng(0)) == Box(300, 0, 100, 100)


def test_random_squares_of_rotated_pictures_have_few_black_pixels() -> None:
    """After the cut of level 1, measured on 1280 x 720: 1.6 % on average and 12.7 % at most."""
    white, rng = Image.new("RGB", (1280, 720), (255, 255, 255)), np.random.default_rng(0)
    shares = []
    for _ in range(300):
        angle = random_angle(rng)
        shares.append((resized(rotated_part(white, angle, random_cut(white.size, rng))) == 0).mean())
    assert np.mean(shares) == pytest.approx(0.016, abs=0.005)
    assert max(shares) < 0.15


@pytest.mark.parametrize("size", [(320, 180), (180, 320), (301, 200), (64, 40)])
def test_the_middle_square_is_cut_out_and_shrunk_with_antialiasing(size: Shape) -> None:
    picture = patches().resize(size)
    side = min(size)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    square = np.asarray(picture)[top : top + side, left : left + side]
    difference = np.abs(np.asarray(centre_cut(picture)) - antialiased_by_definition(square, SIDE_PX))
    assert difference.max() <= 1.5
    assert difference.mean() < 0.35


@pytest.mark.parametrize("side", [100, 500])
def test_a_random_square_is_resized_in_floating_point_and_truncated(side: int) -> None:
    square = patches().crop((400, 100, 400 + side, 100 + side))
    exact = antialiased_by_definition(np.asarray(square), SIDE_PX)
    lost = exact - resized(square)
    # Truncated to the value below, but where single precision has already fallen below a whole value.
    assert lost.min() > -1e-3
    assert lost.max() < 1 + 1e-3


@pytest.mark.parametrize(
    ("size", "content"), [((1280, 720), (224, 126)), ((720, 1280), (126, 224)), ((640, 639), (224, 223))]
)
def test_a_letterbox_holds_the_whole_picture_in_sides_that_are_rounded_down(size: Shape, content: Shape) -> None:
    boxed = np.asarray(letterbox(Image.new("RGB", size, (90, 160, 230))))
    lit = boxed.min(-1) > 0
    assert (lit.any(0).sum(), lit.any(1).sum()) == content
    left, top = (SIDE_PX - content[0]) // 2, (SIDE_PX - content[1]) // 2
    assert lit[top : top + content[1], left : left + content[0]].all()


def test_45_percent_of_a_letterboxed_wide_picture_are_exactly_black() -> None:
    """7 of 16 rows are bars, 43.75 %; the measured picture had black pixels of its own."""
    assert (np.asarray(letterbox(patches())) == 0).all(-1).mean() == pytest.approx(0.45, abs=0.015)


def test_a_picture_that_is_a_line_keeps_a_line() -> None:
    boxed = np.asarray(letterbox(Image.new("RGB", (3000, 2), (200, 200, 200))))
    assert (boxed.max((1, 2)) > 0).sum() == 1

"""One rule says what an engine sees of a picture, however it arrives; pixels of older bundles stay as they are."""

from __future__ import annotations

import io
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from offline.stream.challenge import Cell, as_jpeg, sent
from stage1.preprocess import (
    NO_BARS,
    Bars,
    Box,
    Geometry,
    PreprocessSettings,
    Shape,
    View,
    bars_of,
    framed,
    preprocess,
    view_of,
)
from tests.support.challenges import jpeg, patches

FRAME, CUT, BARRED = (1280, 720, NO_BARS), (224, 224, NO_BARS), (224, 224, Bars(rows=49))
SQUARE = Box(0, 0, 224, 224)
SQUARES: tuple[Geometry, ...] = ("squash", "crop", "letterbox")
GEOMETRIES: tuple[Geometry, ...] = get_args(Geometry)
# Of a night before there was another geometry, and of a program that did not write the field.
STORED = """{
  "schema_version": 1,
  "size_px": 224,
  "geometry": "squash",
  "resample": "bilinear",
  "max_bytes": 16777216,
  "max_pixels": 64000000
}
"""
STORED_WITHOUT = STORED.replace('  "geometry": "squash",\n', "")
STORED_SHA256 = "6fe450377d930142181c7b0e63e021caf2abe6ca96c4f408b16a2ec9e2a1bdc4"


def of_april(width: int, height: int, level: int = 0, seed: int = 0) -> Image.Image:
    """What a miner decodes of a frame that a validator put between bars."""
    frame = patches().resize((width, height))
    cell, rng = Cell("challenges-2026-04", level), np.random.default_rng(seed)
    return Image.open(io.BytesIO(sent(jpeg(frame), cell, rng, PreprocessSettings())))


def compressed(pixels: NDArray[np.float64]) -> Image.Image:
    """A picture as it is after a validator has compressed it."""
    return Image.open(io.BytesIO(as_jpeg(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))))


def off(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference of two pictures."""
    return float(np.abs(np.asarray(first, np.float64) - np.asarray(second, np.float64)).mean())


class TestView:
    @pytest.mark.parametrize(
        ("geometry", "arrives", "part", "place"),
        [
            ("squash", FRAME, Box(0, 0, 1280, 720), SQUARE),
            ("squash", CUT, SQUARE, SQUARE),
            ("squash", BARRED, SQUARE, SQUARE),
            ("crop", FRAME, Box(280, 0, 720, 720), SQUARE),
            ("crop", CUT, SQUARE, SQUARE),
            ("crop", BARRED, Box(49, 49, 126, 126), SQUARE),
            ("letterbox", FRAME, Box(0, 0, 1280, 720), Box(0, 49, 224, 126)),
            ("letterbox", CUT, SQUARE, SQUARE),
            ("letterbox", BARRED, SQUARE, SQUARE),
        ],
    )
    def test_what_is_done_is_what_the_table_says(
        self, geometry: Geometry, arrives: tuple[int, int, Bars], part: Box, place: Box
    ) -> None:
        assert view_of(*arrives, geometry, (224, 224)) == View(part, place)

    @pytest.mark.parametrize(
        ("geometry", "shape", "arrives", "part", "place"),
        [
            ("wide", (288, 512), FRAME, Box(0, 0, 1280, 720), Box(0, 0, 512, 288)),
            ("wide", (288, 512), CUT, SQUARE, Box(112, 0, 288, 288)),
            ("wide", (288, 512), BARRED, Box(0, 49, 224, 126), Box(0, 0, 512, 288)),
            ("wide", (288, 512), (1024, 768, NO_BARS), Box(0, 0, 1024, 768), Box(64, 0, 384, 288)),
            ("wide", (288, 512), (720, 1280, NO_BARS), Box(0, 0, 720, 1280), Box(175, 0, 162, 288)),
            ("wide", (288, 512), (224, 224, Bars(columns=49)), Box(49, 0, 126, 224), Box(175, 0, 162, 288)),
            ("wide", (252, 448), (455, 256, NO_BARS), Box(0, 0, 455, 256), Box(0, 0, 448, 252)),
            ("tiles", (448, 672), FRAME, Box(0, 0, 1280, 720), Box(0, 35, 672, 378)),
            ("tiles", (448, 672), CUT, SQUARE, Box(112, 0, 448, 448)),
            ("tiles", (448, 672), BARRED, Box(0, 49, 224, 126), Box(0, 35, 672, 378)),
        ],
    )
    def test_of_a_rectangle_too(
        self, geometry: Geometry, shape: Shape, arrives: tuple[int, int, Bars], part: Box, place: Box
    ) -> None:
        assert view_of(*arrives, geometry, shape) == View(part, place)

    @pytest.mark.parametrize("geometry", ["wide", "tiles"])
    def test_a_square_cut_out_of_a_frame_is_seen_at_the_scale_of_the_frame_or_nearer(self, geometry: Geometry) -> None:
        shape = PreprocessSettings(geometry=geometry).shape
        frame, cut = (view_of(*size, NO_BARS, geometry, shape) for size in ((1280, 720), (720, 720)))
        assert cut.place.height / 720 == pytest.approx(max(frame.place.height, shape[0]) / 720, rel=0.01)

    def test_a_picture_that_stands_is_treated_as_one_that_lies(self) -> None:
        assert view_of(720, 1280, NO_BARS, "crop", (224, 224)).part == Box(0, 280, 720, 720)
        assert view_of(720, 1280, NO_BARS, "letterbox", (224, 224)).place == Box(49, 0, 126, 224)
        assert view_of(224, 224, Bars(columns=49), "crop", (224, 224)).part == Box(49, 49, 126, 126)

    @given(
        geometry=st.sampled_from(["wide", "tiles"]),
        size=st.tuples(st.integers(1, 6000), st.integers(1, 6000)),
        bars=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
    )
    def test_whatever_arrives_is_seen_whole_at_one_scale_in_the_middle(
        self, geometry: Geometry, size: tuple[int, int], bars: tuple[int, int]
    ) -> None:
        width, height = size
        found = Bars(rows=min(bars[0], (height - 1) // 2), columns=min(bars[1], (width - 1) // 2))
        shape = PreprocessSettings(geometry=geometry).shape
        part, place = view_of(width, height, found, geometry, shape).part, view_of(*size, found, geometry, shape).place
        assert part == Box(found.columns, found.rows, width - 2 * found.columns, height - 2 * found.rows)
        assert place.height == shape[0] or place.width == shape[1]
        assert 1 <= place.height <= shape[0]
        assert 1 <= place.width <= shape[1]
        assert abs(place.left - (shape[1] - place.width - place.left)) <= 1
        assert abs(place.top - (shape[0] - place.height - place.top)) <= 1
        scale = min(shape[0] / part.height, shape[1] / part.width)
        assert place.width == pytest.approx(part.width * scale, abs=1)
        assert place.height == pytest.approx(part.height * scale, abs=1)

    @pytest.mark.parametrize("geometry", GEOMETRIES)
    @pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2), (224, 223)])
    def test_no_picture_is_too_thin_to_be_seen(self, geometry: Geometry, size: tuple[int, int]) -> None:
        shape = PreprocessSettings(size_px=64, geometry=geometry).shape
        view = view_of(*size, NO_BARS, geometry, shape)
        for box, width, height in ((view.part, *size), (view.place, shape[1], shape[0])):
            assert min(box.left, box.top) >= 0
            assert min(box.width, box.height) >= 1
            assert box.left + box.width <= width
            assert box.top + box.height <= height
        assert framed(Image.new("RGB", size, "white"), geometry, shape).size == shape[::-1]


class TestBars:
    @pytest.mark.parametrize(
        ("size", "bars"),
        [
            ((1280, 720), Bars(rows=49)),
            ((1024, 768), Bars(rows=28)),
            ((455, 256), Bars(rows=49)),
            ((720, 1280), Bars(columns=49)),
            ((1920, 800), Bars(rows=65)),
        ],
    )
    def test_bars_are_found_after_compression(self, size: tuple[int, int], bars: Bars) -> None:
        found = bars_of(of_april(*size))
        assert abs(found.rows - bars.rows) + abs(found.columns - bars.columns) <= 2
        assert (found.rows > 0, found.columns > 0) == (bars.rows > 0, bars.columns > 0)

    def test_of_a_rotated_frame_what_is_black_from_side_to_side_is_bar(self) -> None:
        found = bars_of(of_april(1280, 720, level=1, seed=3))
        assert 8 <= found.rows < 49
        assert found.columns == 0

    @pytest.mark.parametrize("level", range(4))
    def test_a_square_that_was_cut_out_has_none(self, level: int) -> None:
        cell = Cell("challenges-2026-01", level)
        for seed in range(20):
            content = sent(jpeg(patches()), cell, np.random.default_rng(seed), PreprocessSettings())
            assert bars_of(Image.open(io.BytesIO(content))) == NO_BARS

    def test_a_dark_sky_is_none(self) -> None:
        """Noise of a sensor above a lit road, and a sky that is black to the bit."""
        road = np.zeros((224, 224, 3))
        road[120:] = np.asarray(patches().resize((224, 104)), np.float64)
        assert bars_of(compressed(road)) == NO_BARS
        noisy = road + np.random.default_rng(0).normal(0, 2, road.shape)
        noisy[200:] = np.random.default_rng(1).normal(0, 2, (24, 224, 3))
        assert bars_of(compressed(noisy)) == NO_BARS

    def test_a_picture_that_is_black_all_around_or_everywhere_has_none(self) -> None:
        lit = np.zeros((224, 224, 3))
        assert bars_of(compressed(lit)) == NO_BARS
        lit[100:120, 100:120] = 255
        assert bars_of(compressed(lit)) == NO_BARS

    def test_validators_put_none_around_what_is_not_square(self) -> None:
        wide = np.zeros((200, 300, 3))
        wide[50:150] = 200
        assert bars_of(compressed(wide)) == NO_BARS

    @pytest.mark.parametrize("side", [1, 7, 15, 16])
    def test_small_squares_have_no_room_for_them(self, side: int) -> None:
        assert bars_of(Image.new("RGB", (side, side), "white")) == NO_BARS
        assert bars_of(Image.new("RGB", (side, side))) == NO_BARS


class TestOneScale:
    """What `stage1.preprocess` promises: a frame and the same frame between bars are seen alike."""

    @pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (1024, 768)])
    @pytest.mark.parametrize("geometry", ["crop", "letterbox", "wide", "tiles"])
    def test_a_frame_and_the_same_between_bars_look_alike(self, geometry: Geometry, size: tuple[int, int]) -> None:
        frame, barred = patches().resize(size), of_april(*size)
        shape = PreprocessSettings(size_px=32 if geometry == "tiles" else 64, geometry=geometry).shape
        alike = off(framed(barred, geometry, shape), framed(frame, geometry, shape))
        assert alike < 0.25 * off(framed(barred, "squash", (64, 64)), framed(frame, "squash", (64, 64)))

    def test_at_its_own_size_a_letterboxed_square_passes_through(self) -> None:
        arrived = of_april(1280, 720)
        assert off(framed(arrived, "letterbox", (224, 224)), arrived) == 0

    def test_a_frame_is_put_between_bars_as_validators_do(self) -> None:
        frame = patches()
        assert off(framed(frame, "letterbox", (224, 224)), of_april(1280, 720)) < 4
        assert not np.asarray(framed(frame, "letterbox", (224, 224)))[:49].any()


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_a_large_file_is_decoded_whole_whatever_the_geometry(geometry: Geometry) -> None:
    """Decoding at a smaller scale is faster and changes pixels, so no certificate would be true."""
    content = as_jpeg(patches().resize((3000, 1600)))
    settings = PreprocessSettings(size_px=64, geometry=geometry)
    with Image.open(io.BytesIO(content)) as picture:
        expected = framed(picture.convert("RGB"), geometry, settings.shape)
    assert np.array_equal(preprocess(content, settings), np.asarray(expected).transpose(2, 0, 1))


class TestOlderBundles:
    @pytest.mark.parametrize("stored", [STORED, STORED_WITHOUT])
    def test_settings_that_were_stored_squash_and_keep_their_certificate(self, stored: str) -> None:
        settings = PreprocessSettings.model_validate_json(stored)
        assert (settings.geometry, settings.sha256) == ("squash", STORED_SHA256)
        assert settings.to_json().decode() == STORED

    @pytest.mark.parametrize("stored", [STORED, STORED_WITHOUT])
    def test_their_pixels_are_those_of_a_plain_resize_also_between_bars(self, stored: str) -> None:
        settings = PreprocessSettings.model_validate_json(stored).model_copy(update={"size_px": 160})
        for picture in (patches(), of_april(1280, 720), of_april(720, 1280, level=1)):
            content = as_jpeg(picture)
            plain = Image.open(io.BytesIO(content)).resize((160, 160), Image.Resampling.BILINEAR)
            assert np.array_equal(preprocess(content, settings), np.asarray(plain).transpose(2, 0, 1))

    def test_another_geometry_is_another_certificate(self) -> None:
        assert len({PreprocessSettings(geometry=geometry).sha256 for geometry in GEOMETRIES}) == 5


class TestShape:
    @pytest.mark.parametrize(
        ("settings", "shape", "tiles"),
        [
            ({}, (224, 224), None),
            ({"size_px": 252, "geometry": "letterbox"}, (252, 252), None),
            ({"size_px": 288, "geometry": "wide"}, (288, 512), None),
            ({"size_px": 252, "geometry": "wide"}, (252, 448), None),
            ({"size_px": 224, "geometry": "wide"}, (224, 400), None),
            ({"size_px": 224, "geometry": "wide", "width_px": 392}, (224, 392), None),
            ({"geometry": "tiles"}, (448, 672), (2, 3)),
            ({"geometry": "tiles", "size_px": 112, "rows": 1, "columns": 2}, (112, 224), (1, 2)),
        ],
    )
    def test_is_what_the_settings_say(
        self, settings: dict[str, Any], shape: Shape, tiles: tuple[int, int] | None
    ) -> None:
        made = PreprocessSettings(**settings)
        assert (made.shape, made.tiles) == (shape, tiles)
        assert PreprocessSettings.model_validate_json(made.to_json()) == made
        assert preprocess(as_jpeg(patches()), made).shape == (3, *shape)

    @pytest.mark.parametrize(
        ("settings", "told"),
        [
            ({"size_px": 100}, "100 x 100 px .* whole patches of 14 or 16 px: choose another size_px"),
            ({"size_px": 252, "geometry": "wide", "width_px": 450}, "size_px or width_px"),
            ({"size_px": 448, "geometry": "tiles", "rows": 8, "columns": 8}, "more than .* lower size_px, rows or col"),
            ({"size_px": 2048, "geometry": "wide"}, "2048 x 3648 px .* more than"),
            ({"rows": 2}, "rows is of the geometry tiles, and this one is squash: leave it out"),
            ({"geometry": "wide", "columns": 2}, "columns is of the geometry tiles"),
            ({"geometry": "tiles", "width_px": 512}, "width_px is of the geometry wide"),
            ({"geometry": "tiles", "rows": 0}, "rows"),
            ({"geometry": "wide", "width_px": -512}, "width_px"),
        ],
    )
    def test_what_cannot_be_is_refused_with_what_to_do(self, settings: dict[str, Any], told: str) -> None:
        with pytest.raises(ValidationError, match=told):
            PreprocessSettings(**settings)

    def test_what_decides_a_pixel_is_part_of_the_hash(self) -> None:
        several = [{}, {"width_px": 416}], [{}, {"rows": 3}, {"columns": 2}]
        for geometry, changes in zip(("wide", "tiles"), several, strict=True):
            made = [PreprocessSettings.model_validate({"geometry": geometry} | change) for change in changes]
            assert len({settings.sha256 for settings in made}) == len(changes)

from __future__ import annotations

import base64
import io
import random
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from stage1.errors import ImageError
from stage1.preprocess import Geometry, PreprocessSettings, decode_base64, framed, preprocess, upright

Encoder = Callable[..., bytes]
SETTINGS = PreprocessSettings(size_px=64)
ORIENTATION = 0x0112


def street(width: int = 97, height: int = 75) -> Image.Image:
    """A smooth colour picture in which no two corners are alike."""
    small = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def by_pillow(content: bytes, size_px: int) -> NDArray[np.uint8]:
    """The same claim, from Pillow alone: decode, stand upright, RGB, squash with antialiasing."""
    with Image.open(io.BytesIO(content)) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
        resized = upright.resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


class TestPixels:
    def test_are_contiguous_rgb_bytes_channels_first(self, encoded: Encoder) -> None:
        pixels = preprocess(encoded(Image.new("RGB", (40, 30), (250, 120, 10)), "PNG"), SETTINGS)
        assert pixels.shape == (3, 64, 64)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.reshape(3, -1).T.tolist() == [[250, 120, 10]] * 64 * 64

    @pytest.mark.parametrize("progressive", [False, True])
    @pytest.mark.parametrize("quality", [30, 75, 95])
    @pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
    def test_of_a_jpeg_are_those_of_pillow_to_the_bit(
        self, encoded: Encoder, subsampling: str, quality: int, progressive: bool
    ) -> None:
        content = encoded(street(), quality=quality, subsampling=subsampling, progressive=progressive)
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    @pytest.mark.parametrize("size", [(1, 1), (2, 300), (64, 64), (1281, 33)])
    def test_of_a_jpeg_of_any_shape_are_those_of_pillow(self, encoded: Encoder, size: tuple[int, int]) -> None:
        content = encoded(street(*size))
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    def test_of_a_jpeg_in_rgb_are_those_of_pillow(self, encoded: Encoder) -> None:
        content = encoded(street(), keep_rgb=True)
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    @pytest.mark.parametrize("mode", ["L", "CMYK"])
    def test_of_a_jpeg_in_grey_or_cmyk_are_those_of_pillow(self, encoded: Encoder, mode: str) -> None:
        content = encoded(street().convert(mode))
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
    def test_of_a_png_of_any_mode_are_those_of_pillow(self, encoded: Encoder, mode: str) -> None:
        content = encoded(street().convert(mode), "PNG")
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    def test_of_a_png_with_16_bits_of_grey_are_scaled_and_not_clipped(self, encoded: Encoder) -> None:
        grey = np.asarray(street().convert("L"))
        deep = Image.fromarray(grey.astype(np.uint16) * 257)
        shallow = Image.fromarray(grey)
        assert np.array_equal(preprocess(encoded(deep, "PNG"), SETTINGS), preprocess(encoded(shallow, "PNG"), SETTINGS))

    @pytest.mark.parametrize("lossless", [False, True])
    def test_of_a_webp_are_those_of_pillow(self, encoded: Encoder, lossless: bool) -> None:
        content = encoded(street(), "WEBP", lossless=lossless)
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    @pytest.mark.parametrize("image_format", ["PNG", "JPEG"])
    def test_are_not_resampled_at_the_right_size(self, encoded: Encoder, image_format: str) -> None:
        content = encoded(street(224, 224), image_format)
        pixels = preprocess(content, PreprocessSettings())
        with Image.open(io.BytesIO(content)) as image:
            assert np.array_equal(pixels, np.asarray(image).transpose(2, 0, 1))

    @pytest.mark.parametrize("geometry", ["squash", "letterbox", "crop"])
    @pytest.mark.parametrize("orientation", [1, 3])
    @pytest.mark.parametrize("bars", [0, 40])
    def test_of_a_picture_of_the_right_size_are_those_of_its_view(
        self, encoded: Encoder, geometry: Geometry, orientation: int, bars: int
    ) -> None:
        picture = Image.new("RGB", (224, 224))
        picture.paste(street(224, 224 - 2 * bars), (0, bars))
        content = encoded(picture, "JPEG", quality=90, exif=turned(orientation))
        settings = PreprocessSettings(geometry=geometry)
        view = framed(upright(content, settings), geometry, settings.shape)
        assert np.array_equal(preprocess(content, settings), np.asarray(view).transpose(2, 0, 1))

    def test_squash_whatever_the_aspect_ratio(self, encoded: Encoder) -> None:
        halves = Image.new("RGB", (400, 100), (255, 0, 0))
        halves.paste((0, 0, 255), (200, 0, 400, 100))
        pixels = preprocess(encoded(halves, "PNG"), SETTINGS)
        assert pixels[:, 32, 1].tolist() == [255, 0, 0]
        assert pixels[:, 32, 62].tolist() == [0, 0, 255]

    def test_an_animation_shows_its_first_frame(self, encoded: Encoder) -> None:
        frames = [Image.new("RGB", (32, 32), colour) for colour in ((255, 0, 0), (0, 255, 0))]
        content = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
        assert preprocess(content, SETTINGS)[:, 0, 0].tolist() == [255, 0, 0]

    def test_a_picture_with_a_preview_inside_is_a_picture(self, encoded: Encoder) -> None:
        content = encoded(street(), "MPO", save_all=True, append_images=[street(20, 20)])
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    def test_is_applied(self, encoded: Encoder, image_format: str, orientation: int) -> None:
        content = encoded(street(), image_format, exif=turned(orientation))
        assert np.array_equal(preprocess(content, SETTINGS), by_pillow(content, 64))

    def test_six_turns_the_left_side_to_the_top(self, encoded: Encoder) -> None:
        lying = Image.new("RGB", (64, 64), (0, 0, 255))
        lying.paste((255, 0, 0), (0, 0, 32, 64))
        pixels = preprocess(encoded(lying, "PNG", exif=turned(6)), SETTINGS)
        assert pixels[:, 1, 32].tolist() == [255, 0, 0]
        assert pixels[:, 62, 32].tolist() == [0, 0, 255]

    @pytest.mark.parametrize("orientation", [0, 9, 65535])
    def test_that_does_not_exist_is_none(self, encoded: Encoder, orientation: int) -> None:
        assert np.array_equal(
            preprocess(encoded(street(), exif=turned(orientation)), SETTINGS), preprocess(encoded(street()), SETTINGS)
        )

    def test_is_applied_beside_tags_that_cannot_be_written_again(self, encoded: Encoder) -> None:
        """Cameras write tags of a wrong type; Pillow reads them, and fails when asked to write them."""
        entries = struct.pack("<HHII", ORIENTATION, 3, 1, 6) + struct.pack("<HHII", 0x011A, 2, 4, 0x00414141)
        exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + b"\0\0\0\0"
        content = encoded(street(), exif=exif)
        with Image.open(io.BytesIO(content)) as image, pytest.raises((struct.error, TypeError)):
            ImageOps.exif_transpose(image)
        assert np.array_equal(preprocess(content, SETTINGS), preprocess(encoded(street(), exif=turned(6)), SETTINGS))


class TestRefusal:
    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
    def test_truncated(self, encoded: Encoder, image_format: str, kept: float) -> None:
        content = encoded(street(), image_format)
        with pytest.raises(ImageError):
            preprocess(content[: int(kept * len(content))], SETTINGS)

    @pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "PPM"])
    def test_another_format(self, encoded: Encoder, image_format: str) -> None:
        with pytest.raises(ImageError, match="not a readable JPEG, PNG, WEBP image"):
            preprocess(encoded(street(), image_format), SETTINGS)

    @pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
    def test_no_image(self, content: bytes) -> None:
        with pytest.raises(ImageError, match="not a readable"):
            preprocess(content, SETTINGS)

    def test_more_bytes_than_allowed(self, encoded: Encoder) -> None:
        content = encoded(street())
        limit = len(content)
        preprocess(content, PreprocessSettings(max_bytes=limit))
        with pytest.raises(ImageError, match=f"has {limit} bytes, the limit is {limit - 1}"):
            preprocess(content, PreprocessSettings(max_bytes=limit - 1))

    @pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
    def test_more_pixels_than_allowed(self, encoded: Encoder, image_format: str) -> None:
        content = encoded(street(100, 50), image_format)
        preprocess(content, PreprocessSettings(max_pixels=5000))
        with pytest.raises(ImageError, match="100 x 50, the limit is 4999 pixels"):
            preprocess(content, PreprocessSettings(max_pixels=4999))

    @pytest.mark.parametrize("side", [10_000, 20_000, 2**31 - 1])
    def test_a_bomb_is_refused_by_its_header(self, side: int) -> None:
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
        with pytest.raises(ImageError):
            preprocess(bomb + struct.pack(">I", 4) + b"IDAT" + bytes(8), SETTINGS)

    @pytest.mark.filterwarnings("ignore")
    def test_damage_is_an_image_or_an_image_error_and_nothing_else(self, encoded: Encoder) -> None:
        exif = turned(6)
        exif[0x010F] = "maker"
        exif.get_ifd(0x8769)[0x9003] = "2026:01:01 00:00:00"
        exif.get_ifd(0x8825)[2] = (1.0, 2.0, 3.0)
        wholes = [
            encoded(street(40, 30), image_format, **options)
            for image_format in ("JPEG", "PNG", "WEBP")
            for options in ({}, {"exif": exif})
        ]
        dice = random.Random(2)
        for _ in range(6000):
            damaged = bytearray(dice.choice(wholes))
            for _ in range(dice.choice((1, 2, 8))):
                # Most damage goes to the headers, where there is something to misread.
                place = dice.randrange(min(len(damaged), dice.choice((64, 300, 10_000))))
                damaged[place] = dice.randrange(256)
            try:
                assert preprocess(bytes(damaged), SETTINGS).shape == (3, 64, 64)
            except ImageError as error:
                assert str(error)  # noqa: PT017  either outcome is right, anything else is not


class TestBase64:
    @given(st.binary(min_size=1, max_size=200))
    def test_round_trip(self, content: bytes) -> None:
        assert decode_base64(base64.b64encode(content).decode(), SETTINGS) == content

    @pytest.mark.parametrize(
        ("text", "problem"),
        [
            ("", "the image field is empty"),
            ("a", "not base64"),
            ("abc", "not base64"),
            ("ab==cd==", "not base64"),
            ("YWJj\nYWJj", "not base64"),
            ("YW-_", "not base64"),
            ("data:image/jpeg;base64,YWJj", "not base64"),
            ("YWJé", "not base64"),
            ("\ud800abc", "not base64"),
        ],
    )
    def test_refuses_what_is_not_base64(self, text: str, problem: str) -> None:
        with pytest.raises(ImageError, match=problem):
            decode_base64(text, SETTINGS)

    def test_refuses_what_is_too_long_before_decoding_it(self) -> None:
        settings = PreprocessSettings(max_bytes=300)
        assert len(decode_base64(base64.b64encode(bytes(300)).decode(), settings)) == 300
        with pytest.raises(ImageError, match="408 characters, more than 300 bytes decode from"):
            decode_base64(base64.b64encode(bytes(306)).decode(), settings)


class TestSettings:
    def test_hash_names_everything_that_can_change_an_answer(self) -> None:
        base = PreprocessSettings()
        changed = [base.model_copy(update=change) for change in ({"size_px": 448}, {"max_bytes": 1}, {"max_pixels": 9})]
        assert len({settings.sha256 for settings in [base, *changed]}) == 4
        assert PreprocessSettings().sha256 == base.sha256

    @pytest.mark.parametrize("size_px", [0, 15, 100, 4096])
    def test_size_fits_the_patches(self, size_px: int) -> None:
        with pytest.raises(ValueError, match="size_px"):
            PreprocessSettings(size_px=size_px)

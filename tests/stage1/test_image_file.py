"""Image files: one picture however it stands, and one verdict on damage, that of Pillow."""

from __future__ import annotations

import io
import random
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from structlog.testing import capture_logs

from stage1.errors import ImageError
from stage1.image_file import FORMATS, UPRIGHT, ImageLimits, decode, frame_size, orientation

Encoder = Callable[..., bytes]
Verdict = NDArray[np.uint8] | None
ORIENTATION = 0x0112
SHORT, LONG, ASCII, RATIONAL, UNDEFINED, FLOAT = 3, 4, 2, 5, 7, 11


def street(width: int = 97, height: int = 75) -> Image.Image:
    """A smooth colour picture in which no two corners are alike."""
    small = np.random.default_rng(5).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def exif(kind: int = SHORT, count: int = 1, value: bytes = struct.pack("<HH", 1, 0), after: bytes = b"") -> bytes:
    """An EXIF block with nothing but an orientation, of any type."""
    entry = struct.pack("<HHI", ORIENTATION, kind, count) + value[:4].ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry + b"\0\0\0\0" + after


def standing(number: int) -> bytes:
    return exif(value=struct.pack("<HH", number, 0))


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    """The same JPEG, data and damage, with a block of EXIF put before everything else."""
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


def verdict(content: bytes) -> Verdict:
    """The pixels, None if the file is refused; anything but an image or an `ImageError` is a failure."""
    try:
        return np.asarray(decode(content))
    except ImageError:
        return None


def by_pillow(content: bytes) -> Verdict:
    """What Pillow shows, however the picture stands."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError):
        return None


def same(first: Verdict, second: Verdict) -> bool:
    if first is None or second is None:
        return first is second
    return first.shape == second.shape and bool((first == second).all())


def turned(pixels: Verdict, number: int) -> Verdict:
    if pixels is None or number not in UPRIGHT:
        return pixels
    return np.asarray(Image.fromarray(pixels).transpose(UPRIGHT[number]))


def damaged(content: bytes, dice: random.Random) -> bytes:
    """The file with bits flipped, bytes put in, left out or overwritten, markers set, or its end missing."""
    out = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 5))):
        place = dice.randrange(4, max(5, len(out)))
        some = bytes(dice.randrange(256) for _ in range(dice.randrange(1, 20)))
        match dice.randrange(7):
            case 0:
                out[place : place + 1] = bytes((out[place] ^ 1 << dice.randrange(8),)) if place < len(out) else b""
            case 1:
                out[place:place] = some
            case 2:
                out[place : place + len(some)] = b""
            case 3:
                out[place : place + len(some)] = some
            case 4:
                out[place : place + 2] = bytes((0xFF, dice.randrange(256)))
            case 5:
                out += some
            case _:
                del out[place if dice.random() < 0.3 else len(out) :]
    return bytes(out)


@pytest.mark.filterwarnings("ignore")
class TestDamage:
    @pytest.fixture
    def jpegs(self, encoded: Encoder) -> list[bytes]:
        kinds: list[dict[str, object]] = [
            {"subsampling": subsampling, "progressive": progressive, "quality": 80, **restarts}
            for subsampling in ("4:4:4", "4:2:2", "4:2:0")
            for progressive in (False, True)
            for restarts in ({}, {"restart_marker_blocks": 2})
        ]
        grey, cmyk = street().convert("L"), street().convert("CMYK")
        many = encoded(street(), "MPO", save_all=True, append_images=[street(20, 20)])
        large = encoded(street(640, 360), quality=95)
        return [*(encoded(street(), **kind) for kind in kinds), encoded(grey), encoded(cmyk), many, large]

    def test_of_a_jpeg_has_one_verdict_however_it_stands(self, jpegs: list[bytes]) -> None:
        dice = random.Random(17)
        shown = refused = 0
        for _ in range(800):
            content = damaged(dice.choice(jpegs), dice)
            upright = verdict(with_exif(content, standing(1)))
            number = dice.choice((0, *range(2, 10)))
            assert same(verdict(with_exif(content, standing(number))), turned(upright, number))
            assert same(upright, by_pillow(with_exif(content, standing(1))))
            shown += upright is not None
            refused += upright is None
        assert min(shown, refused) > 100

    @pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
    def test_of_another_format_has_the_verdict_of_pillow(self, encoded: Encoder, image_format: str) -> None:
        dice = random.Random(18)
        wholes = [encoded(street(), image_format), encoded(street(), image_format, exif=standing(6))]
        for _ in range(400):
            content = damaged(dice.choice(wholes), dice)
            found, expected = verdict(content), by_pillow(content)
            assert (found is None) == (expected is None)
            assert found is None or any(same(found, turned(expected, number)) for number in range(1, 9))

    def test_of_its_exif_does_not_damage_the_picture(self, encoded: Encoder) -> None:
        dice = random.Random(19)
        content = encoded(street())
        whole = verdict(content)
        for _ in range(400):
            block = b"Exif\0\0" + damaged(exif(SHORT, 1, struct.pack("<HH", 6, 0), dice.randbytes(9))[6:], dice)
            found = verdict(with_exif(content, block))
            assert any(same(found, turned(whole, number)) for number in range(1, 9))

    @pytest.mark.parametrize("number", [1, 6])
    def test_with_a_warning_only_is_shown(self, encoded: Encoder, number: int) -> None:
        content = encoded(street(), exif=standing(number))
        scan = content.index(b"\xff\xda")
        extraneous = content[:scan] + b"\0\0\0" + content[scan:]
        assert same(verdict(extraneous), verdict(content))

    @pytest.mark.parametrize("number", [1, 6])
    @pytest.mark.parametrize("missing", [1, 2, 3, 40])
    def test_that_takes_the_end_is_refused(self, encoded: Encoder, number: int, missing: int) -> None:
        assert verdict(encoded(street(), exif=standing(number))[:-missing]) is None


class TestOrientation:
    @pytest.mark.parametrize("number", range(1, 9))
    @pytest.mark.parametrize("image_format", FORMATS)
    def test_stands_the_picture_upright(self, encoded: Encoder, image_format: str, number: int) -> None:
        content = encoded(street(), image_format, exif=standing(number))
        with Image.open(io.BytesIO(content)) as image:
            assert orientation(image) == number
            assert same(verdict(content), np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
        assert frame_size(io.BytesIO(content)) == ((97, 75) if number < 5 else (75, 97))

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        "block",
        [
            exif(ASCII, 2, b"6\0"),
            exif(ASCII, 40, b"\xff\xff\0\0"),
            exif(UNDEFINED, 4, b"6666"),
            exif(SHORT, 2, struct.pack("<HH", 9, 6)),
            exif(SHORT, 0),
            exif(SHORT, 2**31),
            exif(RATIONAL, 1, struct.pack("<I", 26), struct.pack("<II", 6, 0)),
            exif(RATIONAL, 1, struct.pack("<I", 26), struct.pack("<II", 13, 2)),
            exif(FLOAT, 1, struct.pack("<f", float("nan"))),
            exif(99, 1),
            exif(LONG, 1, struct.pack("<I", 2**32 - 1)),
            exif(SHORT, 1, struct.pack("<HH", 0, 0)),
            exif(SHORT, 1, struct.pack("<HH", 9, 0)),
            b"Exif\0\0",
            b"Exif\0\0nonsense",
            b"Exif\0\0II*\0\xff\xff\xff\xff",
        ],
    )
    @pytest.mark.parametrize("image_format", FORMATS)
    def test_that_is_no_number_from_1_to_8_is_none(self, encoded: Encoder, image_format: str, block: bytes) -> None:
        plain = encoded(street(), image_format)
        content = with_exif(plain, block) if image_format == "JPEG" else encoded(street(), image_format, exif=block)
        assert same(verdict(content), verdict(plain))
        assert frame_size(io.BytesIO(content)) == (97, 75)

    def test_of_a_whole_number_in_another_type_counts(self, encoded: Encoder) -> None:
        content = encoded(street(), exif=exif(LONG, 1, struct.pack("<I", 6)))
        assert frame_size(io.BytesIO(content)) == (75, 97)


class TestFrameSize:
    def test_of_no_picture_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"no image")
        with (tmp_path / "a.jpg").open("rb") as file, pytest.raises(ImageError, match="not a readable"):
            frame_size(file)

    def test_of_a_jpeg_needs_the_header_only(self, encoded: Encoder) -> None:
        content = encoded(street(), exif=standing(8))
        assert frame_size(io.BytesIO(content[: len(content) // 2])) == (75, 97)


def test_a_picture_of_a_suspicious_size_leaves_no_warning_behind() -> None:
    """Python keeps every warning of another text, and prints it: one caller could fill a log and the memory."""
    script = """
import io
from PIL import Image
from stage1.errors import ImageError
from stage1.image_file import decode
for side in range(10_000, 10_020):
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "PNG")
    try:
        decode(file.getvalue())
    except ImageError:
        pass
print(len({*vars(Image).get("__warningregistry__", ())} - {"version"}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("0", "")


def test_a_sound_file_gives_no_warning(encoded: Encoder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for image_format in FORMATS:
            decode(encoded(street(), image_format, exif=standing(3)))


class TestUnexpected:
    """A picture is refused whatever its decoder does; what nobody expected of a decoder is in the log, once."""

    @pytest.mark.parametrize("error", [RuntimeError, TypeError, AssertionError])
    def test_an_error_that_says_nothing_of_the_file_is_in_the_log(
        self, error: type[Exception], monkeypatch: pytest.MonkeyPatch, encoded: Encoder
    ) -> None:
        def broken(_: Image.Image) -> Image.Image:
            raise error("a fault")

        monkeypatch.setattr("stage1.image_file._by_pillow", broken)
        with capture_logs() as logs, pytest.raises(ImageError, match="a fault") as caught:
            decode(encoded(street(), "PNG"))
        assert isinstance(caught.value.__cause__, error)
        assert [(entry["event"], entry["exc_info"]) for entry in logs] == [("decoder_failed", True)]
        with capture_logs() as logs, pytest.raises(ImageError, match="a fault"):
            decode(encoded(street(), "PNG"))
        assert logs == []

    def test_what_is_wrong_with_the_file_is_not(self, encoded: Encoder) -> None:
        content = encoded(street(), "PNG")
        with capture_logs() as logs:
            for broken in (b"", b"no picture", content[:60], content[: len(content) // 2]):
                with pytest.raises(ImageError):
                    decode(broken)
        assert logs == []

    @pytest.mark.parametrize("read", [decode, lambda content: frame_size(io.BytesIO(content))])
    def test_a_picture_whose_tags_find_no_memory_does_not_pass_as_upright(
        self, read: Callable[[bytes], object], monkeypatch: pytest.MonkeyPatch, encoded: Encoder
    ) -> None:
        def full(_: Image.Image) -> Image.Exif:
            raise MemoryError

        content = encoded(street(), "JPEG")
        monkeypatch.setattr(Image.Image, "getexif", full)
        with pytest.raises(MemoryError):
            read(content)


def test_a_progressive_picture_of_thousands_of_scans_is_refused_before_it_is_decoded() -> None:
    """Each scan is as much work as the whole picture: half a megabyte took half a minute."""
    file = io.BytesIO()
    Image.new("L", (64, 64), 90).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    start = content.rindex(b"\xff\xda")
    scan = content[start : content.rindex(b"\xff\xd9")]
    limits = ImageLimits(10_000)
    assert decode(content, limits).size == (64, 64)
    with pytest.raises(ImageError, match="scans, the limit is 24"):
        decode(content[:start] + scan * 100 + b"\xff\xd9", limits)


def test_what_is_no_picture_is_told_in_words() -> None:
    for read in (decode, lambda content: frame_size(io.BytesIO(content))):
        with pytest.raises(ImageError, match="not a readable JPEG, PNG, WEBP image: it does not begin like one"):
            read(b"no picture")


def segments(content: bytes) -> bytes:
    """Parts of the header of a JPEG that its decoder passes over."""
    parts = (content[start : start + 65_000] for start in range(0, len(content), 65_000))
    return b"".join(b"\xff\xed" + struct.pack(">H", len(part) + 2) + part for part in parts)


@pytest.mark.parametrize("progressive", [False, True])
def test_what_looks_like_scans_beside_the_picture_is_none(encoded: Encoder, progressive: bool) -> None:
    """Phones append films and depth maps; profiles, previews and notes of cameras fill megabytes of the header."""
    content = encoded(street(), "JPEG", progressive=progressive)
    beside = b"\xff\xda" * 50_000
    for around in (content + beside, content[:2] + segments(beside) + content[2:]):
        assert same(verdict(around), verdict(content))


@pytest.mark.parametrize("between", [b"\xff\x02\xff\xff", b"\xff\xd0\xff\xff", b"\xff\xff", b"\xff\xfe\0\0"])
def test_no_scan_hides_behind_what_is_no_part_of_a_picture(between: bytes) -> None:
    file = io.BytesIO()
    Image.new("L", (64, 64), 90).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    start = content.rindex(b"\xff\xda")
    scan = content[start : content.rindex(b"\xff\xd9")]
    with pytest.raises(ImageError, match="scans, the limit is 24"):
        decode(content[:start] + (between + scan) * 100 + b"\xff\xd9")


def test_a_jpeg_of_countless_parts_is_given_up() -> None:
    file = io.BytesIO()
    Image.new("L", (64, 64), 90).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    end = content.rindex(b"\xff\xd9")
    with pytest.raises(ImageError, match="pieces"):
        decode(content[:end] + b"\xff\xfe\0\2" * 60_000 + content[end:] + b"\xff\xda" * 30)


def png_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@pytest.mark.parametrize(
    ("kind", "between"),
    [
        ("JPEG", b"\xff" * 60_000),
        ("JPEG", b"\xff\xfe\x00\x02" + b"junk" * 20_000),
        ("JPEG", b"\xff\xe1\x00\x02" * 30_000),
        ("JPEG", (b"\xff\xed\xff\xff" + bytes(65_533)) * 70),
        ("PNG", png_chunk(b"tEXt", b"a\0b") * 30_000),
        ("PNG", png_chunk(b"IDAT") * 30_000),
    ],
    ids=["fill bytes", "junk", "segments", "a long header", "texts", "pieces of data"],
)
def test_a_file_that_keeps_its_parser_busy_is_given_up(encoded: Encoder, kind: str, between: bytes) -> None:
    """Sixteen megabytes of such pieces took a worker minutes, in Python code that no deadline ends."""
    content = encoded(street(), kind)
    start = 2 if kind == "JPEG" else content.index(b"IDAT") - 4
    with pytest.raises(ImageError, match=r"pieces|header of the file"):
        decode(content[:start] + between + content[start:])


def test_a_large_picture_is_read_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits are far from what pictures need."""
    monkeypatch.setattr("stage1.image_file.MOST_READINGS", 5_000)
    noise = np.random.default_rng(0).integers(0, 256, (1600, 3000, 3), np.uint8)
    for kind in ("JPEG", "PNG"):
        file = io.BytesIO()
        Image.fromarray(noise).save(file, kind, compress_level=1)
        assert decode(file.getvalue()).size == (3000, 1600)

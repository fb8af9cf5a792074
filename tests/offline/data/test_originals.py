"""What is cut from the file has the detail that the engine's input lost; copies are bounded, shared and repeatable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from structlog.testing import capture_logs

from offline.data.dataset import Picture
from offline.data.originals import Copies, Crop, cropped, longest_side, originals_of, random_crop, resized
from offline.errors import DatasetError
from offline.stream.challenge import as_jpeg
from stage1.image_file import EXIF_ORIENTATION
from stage1.preprocess import PreprocessSettings, framed
from tests.support.challenges import patches

SETTINGS = PreprocessSettings(size_px=64)


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return Copies(tmp_path / "copies", SETTINGS)


def made(copies: Copies) -> list[Path]:
    return sorted(copies.directory.rglob("*.jpg"))


def stripes(width: int, height: int) -> Image.Image:
    """Black and white columns of one pixel on the left half, grey on the right one."""
    pixels = np.full((height, width, 3), 128, np.uint8)
    pixels[:, : width // 2 : 2], pixels[:, 1 : width // 2 : 2] = 0, 255
    return Image.fromarray(pixels)


def test_a_large_picture_has_a_copy_and_a_small_one_is_its_own(tmp_path: Path, copies: Copies) -> None:
    patches().resize((3000, 1500)).save(tmp_path / "large.jpg", quality=80)
    (tmp_path / "small.jpg").write_bytes(as_jpeg(patches()))
    found = originals_of([tmp_path / "large.jpg", tmp_path / "small.jpg"], copies)
    assert found.files[1] == tmp_path / "small.jpg"
    assert found.files[0] == made(copies)[0]
    assert found.picture(0).size == (1280, 640)
    expected = np.asarray(patches().resize((1280, 640)), np.float64)
    assert np.abs(np.asarray(found.picture(0), np.float64) - expected).mean() < 5
    assert [picture.size for picture in found.pictures([1, 0])] == [patches().size, (1280, 640)]


def test_a_copy_stands_upright_and_is_rgb(tmp_path: Path, copies: Copies) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    patches().resize((640, 360)).save(tmp_path / "lying.jpg", exif=exif)
    patches().convert("L").save(tmp_path / "grey.png")
    found = originals_of([tmp_path / "lying.jpg", tmp_path / "grey.png"], copies)
    assert found.picture(0).size == (360, 640)
    assert found.picture(1).mode == "RGB"
    assert len(made(copies)) == 2


def test_copies_are_named_by_what_is_in_the_file_and_the_same_when_made_again(tmp_path: Path, copies: Copies) -> None:
    for name in ("a.png", "b.png"):
        patches().save(tmp_path / name)
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    assert len(set(originals_of(paths, copies).files)) == 1
    [copy] = made(copies)
    first, copied_at = copy.read_bytes(), copy.stat().st_ino
    originals_of(paths, copies)
    assert copy.stat().st_ino == copied_at
    copy.unlink()
    assert originals_of(paths, copies).files == (copy, copy)
    assert copy.read_bytes() == first
    patches().rotate(3).save(tmp_path / "a.png")
    assert originals_of(paths, copies).files[0] != copy
    assert not list(copies.directory.rglob("*.partial"))


def test_a_file_is_read_once_in_a_process_and_again_when_it_has_changed(
    tmp_path: Path, copies: Copies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A race trains on the same files again and again."""
    read: list[Picture] = []
    looked_up = Copies.looked_up

    def counted(self: Copies, path: Picture) -> Picture:
        read.append(path)
        return looked_up(self, path)

    monkeypatch.setattr(Copies, "looked_up", counted)
    patches().save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(as_jpeg(patches()))
    paths = [tmp_path / "a.png", tmp_path / "b.jpg"]
    first = originals_of(paths, copies).files
    assert originals_of(paths, Copies(copies.directory, SETTINGS)).files == first
    assert sorted(map(str, read)) == [*map(str, paths)]
    patches().rotate(3).save(tmp_path / "a.png")
    assert originals_of(paths, copies).files[0] != first[0]
    assert read[2:] == [tmp_path / "a.png"]


@pytest.mark.parametrize(
    ("settings", "side"),
    [
        ({}, 1280),
        ({"size_px": 288, "geometry": "wide"}, 1280),
        ({"geometry": "tiles"}, 1280),
        ({"geometry": "tiles", "rows": 3, "columns": 5}, 1584),
        ({"size_px": 2048}, 2897),
    ],
)
def test_a_copy_is_as_long_as_the_input_needs_and_no_longer(settings: dict[str, object], side: int) -> None:
    shape = PreprocessSettings.model_validate(settings).shape
    assert longest_side(shape) == side
    assert side * side * 0.5 >= max(shape) ** 2


@pytest.mark.parametrize("content", [b"", b"not a picture", as_jpeg(patches())[:100]])
def test_a_file_that_is_no_picture_is_named(tmp_path: Path, copies: Copies, content: bytes) -> None:
    (tmp_path / "bad.jpg").write_bytes(content)
    with pytest.raises(DatasetError, match=r"bad\.jpg"):
        originals_of([tmp_path / "bad.jpg"], copies).picture(0)
    assert not made(copies)


def test_where_the_disk_takes_no_copy_the_picture_is_the_same_to_the_bit(tmp_path: Path, copies: Copies) -> None:
    patches().resize((2000, 900)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("in the way")
    with capture_logs() as logs:
        found = originals_of([tmp_path / "a.png"], Copies(tmp_path / "file", SETTINGS))
    assert found.files == (tmp_path / "a.png",)
    assert [line["event"] for line in logs] == ["no_copy_of_a_picture"]
    expected = originals_of([tmp_path / "a.png"], copies).picture(0)
    assert np.array_equal(np.asarray(found.picture(0)), np.asarray(expected))


class TestCrop:
    def test_has_the_detail_that_the_input_lost(self, tmp_path: Path, copies: Copies) -> None:
        """Columns of one pixel are grey in an input of 64 px, and black and white in a crop of the file."""
        stripes(512, 256).save(tmp_path / "a.png")
        picture = originals_of([tmp_path / "a.png"], copies).picture(0)
        near = np.asarray(resized(picture, Crop(0, 0, 0.125, 0.25), (64, 64)), np.float64)
        far = np.asarray(framed(picture, "squash", (64, 64)), np.float64)[:, :32]
        assert near.std() > 100
        assert far.std() < 10

    def test_what_is_cut_is_the_part_that_is_named(self) -> None:
        picture = stripes(200, 100)
        assert cropped(picture, Crop(0.5, 0, 0.5, 1)).size == (100, 100)
        assert np.ptp(np.asarray(cropped(picture, Crop(0.5, 0, 0.5, 1)))) == 0
        assert np.ptp(np.asarray(cropped(picture, Crop(0, 0, 0.5, 0.5)))) == 255
        left, right = (np.asarray(resized(picture, Crop(mirrored=m), (10, 20)), np.int16) for m in (False, True))
        assert np.array_equal(left, right[:, ::-1])

    @pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (7, 5)])
    def test_no_picture_is_too_thin_to_be_cut(self, size: tuple[int, int]) -> None:
        picture, rng = Image.new("RGB", size), np.random.default_rng(0)
        for _ in range(20):
            crop = random_crop(rng)
            assert min(cropped(picture, crop).size) >= 1
            assert resized(picture, crop, (8, 16)).size == (16, 8)

    def test_random_ones_lie_in_the_picture_and_are_of_the_shares_that_are_asked(self) -> None:
        crops = [random_crop(np.random.default_rng(seed)) for seed in range(200)]
        areas = [crop.width * crop.height for crop in crops]
        assert all(crop.left >= 0 and crop.left + crop.width <= 1 + 1e-9 for crop in crops)
        assert all(crop.top >= 0 and crop.top + crop.height <= 1 + 1e-9 for crop in crops)
        assert 0.4 < min(areas) < 0.55
        assert 0.9 < max(areas) <= 1
        assert random_crop(np.random.default_rng(3)) == crops[3]

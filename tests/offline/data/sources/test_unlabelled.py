"""Unlabelled images: all that can be read, and none that judges."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offline.data.checks.fingerprints import fingerprint
from offline.data.sources.synthetic_streets import draw_frame, plan_scene
from offline.data.sources.unlabelled import read_unlabelled
from offline.errors import DatasetError
from stage1.preprocess import PreprocessSettings, preprocess

SETTINGS = PreprocessSettings(size_px=32)
NONE = np.empty((0, 3, 32, 32), np.uint8)


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    draw_frame(plan_scene(number, seed=3, difficulty=0.2), 0).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@pytest.fixture
def street(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(["a.jpg", "deep/b.JPEG", "deep/er/c.jpg"]):
        (tmp_path / name).write_bytes(picture(number))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def hash_of(path: Path) -> str:
    found = fingerprint(path).phash
    assert found is not None
    return found


def test_everything_below_a_directory_is_read_as_serving_reads_it(street: Path) -> None:
    told: list[tuple[int, int]] = []
    found = read_unlabelled(
        [street], SETTINGS, [], 40, ahead=NONE, progress=lambda done, total, _: told.append((done, total))
    )
    assert told == [(3, 3)]
    expected = np.stack([preprocess(picture(number), SETTINGS) for number in range(3)])
    assert np.array_equal(found.images, expected)
    assert (found.unreadable, found.alike) == (0, 0)


def test_what_cannot_be_decoded_is_counted(street: Path) -> None:
    (street / "broken.jpg").write_bytes(picture(5)[:200])
    found = read_unlabelled([street], SETTINGS, [], 40, ahead=NONE)
    assert (len(found.images), found.unreadable) == (3, 1)


def test_what_looks_like_a_row_that_judges_is_left_out(street: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(buffer, "JPEG", quality=40)
    (copy / "again.jpg").write_bytes(buffer.getvalue())
    found = read_unlabelled([street], SETTINGS, [hash_of(copy / "again.jpg")], 40, ahead=NONE)
    # The picture itself, and the copy, which lies below the same directory.
    assert (len(found.images), found.alike) == (2, 2)


def test_what_stays_is_in_the_order_of_the_files_wherever_a_copy_lay(street: Path) -> None:
    ahead = np.full((2, 3, 32, 32), 7, np.uint8)
    for left_out, name in enumerate(["a.jpg", "deep/b.JPEG", "deep/er/c.jpg"]):
        found = read_unlabelled([street], SETTINGS, [hash_of(street / name)], 40, ahead=ahead)
        expected = [preprocess(picture(number), SETTINGS) for number in range(3) if number != left_out]
        assert np.array_equal(found.images, np.concatenate([ahead, np.stack(expected)]))
        assert found.alike == 1


def test_a_blank_picture_looks_like_no_row_that_judges(street: Path) -> None:
    Image.new("RGB", (320, 240), (7, 7, 7)).save(street / "blank.png")
    found = read_unlabelled([street], SETTINGS, ["0" * 64], 40, ahead=NONE)
    assert (len(found.images), found.alike) == (4, 0)


def test_a_directory_that_is_not_there_or_empty_is_said(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nowhere: no such directory; adapt_domain\.images"):
        read_unlabelled([tmp_path / "nowhere"], SETTINGS, [], 40, ahead=NONE)
    with pytest.raises(DatasetError, match="no image in it"):
        read_unlabelled([tmp_path], SETTINGS, [], 40, ahead=NONE)


def test_what_is_there_already_comes_first(street: Path) -> None:
    ahead = np.full((2, 3, 32, 32), 7, np.uint8)
    found = read_unlabelled([street], SETTINGS, [], 40, ahead=ahead)
    assert len(found.images) == 5
    assert np.array_equal(found.images[:2], ahead)
    assert np.array_equal(read_unlabelled([], SETTINGS, [], 40, ahead=ahead).images, ahead)

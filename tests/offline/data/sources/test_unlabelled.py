"""Unlabelled images: all that can be read, and none that judges."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from offline.data.checks.fingerprints import fingerprint
from offline.data.originals import Copies
from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.synthetic_streets import draw_frame
from offline.data.sources.unlabelled import read_unlabelled
from offline.errors import DatasetError
from stage1.image_file import frame_size
from stage1.preprocess import PreprocessSettings

SETTINGS = PreprocessSettings(size_px=32)
NAMES = "a.jpg", "deep/b.JPEG", "deep/er/c.jpg"


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    draw_frame(plan_scene(number, seed=3, difficulty=0.2), 0).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


@pytest.fixture
def street(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (tmp_path / name).write_bytes(picture(number))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def hash_of(path: Path) -> str:
    found = fingerprint(path).phash
    assert found is not None
    return found


@pytest.fixture
def copies(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    return Copies(tmp_path_factory.mktemp("copies"), SETTINGS)


def test_everything_below_a_directory_is_read(street: Path, copies: Copies) -> None:
    told: list[tuple[int, int]] = []
    found = read_unlabelled([street], copies, [], 40, progress=lambda done, total, _: told.append((done, total)))
    assert told == [(3, 3)]
    assert found.files == tuple(street / name for name in NAMES)
    assert (found.unreadable, found.alike) == (0, 0)


def test_of_what_is_large_or_lies_there_is_a_copy(street: Path, copies: Copies) -> None:
    Image.open(io.BytesIO(picture(8))).resize((2000, 1500)).save(street / "large.jpg")
    found = read_unlabelled([street], copies, [], 40)
    assert [Path(str(file)).is_relative_to(copies.directory) for file in found.files] == [False, False, False, True]
    assert frame_size(io.BytesIO(found.files[3].read_bytes())) == (1280, 960)


def test_what_cannot_be_decoded_is_counted(street: Path, copies: Copies) -> None:
    (street / "broken.jpg").write_bytes(picture(5)[:200])
    found = read_unlabelled([street], copies, [], 40)
    assert (len(found.files), found.unreadable) == (3, 1)


def test_what_is_over_a_limit_is_counted(street: Path, copies: Copies) -> None:
    largest = max((street / name).stat().st_size for name in NAMES)
    narrow = replace(copies, settings=PreprocessSettings(size_px=32, max_bytes=largest - 1))
    assert read_unlabelled([street], narrow, [], 40).unreadable == 1


def test_what_looks_like_a_row_that_judges_is_left_out(street: Path, tmp_path: Path, copies: Copies) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(buffer, "JPEG", quality=40)
    (copy / "again.jpg").write_bytes(buffer.getvalue())
    found = read_unlabelled([street], copies, [hash_of(copy / "again.jpg")], 40)
    # The picture itself, and the copy, which lies below the same directory.
    assert (len(found.files), found.alike) == (2, 2)


@pytest.mark.parametrize("left_out", range(3))
def test_what_stays_is_in_the_order_of_the_files_wherever_one_lay(street: Path, copies: Copies, left_out: int) -> None:
    found = read_unlabelled([street], copies, [hash_of(street / NAMES[left_out])], 40)
    assert found.files == tuple(street / name for number, name in enumerate(NAMES) if number != left_out)
    assert found.alike == 1


def test_a_blank_picture_looks_like_no_row_that_judges(street: Path, copies: Copies) -> None:
    Image.new("RGB", (320, 240), (7, 7, 7)).save(street / "blank.png")
    found = read_unlabelled([street], copies, ["0" * 64], 40)
    assert (len(found.files), found.alike) == (4, 0)


def test_a_directory_that_is_not_there_or_empty_is_said(tmp_path: Path, copies: Copies) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"nowhere: no such directory; adapt_domain\.images"):
        read_unlabelled([tmp_path / "nowhere"], copies, [], 40)
    with pytest.raises(DatasetError, match="no image in it"):
        read_unlabelled([tmp_path / "empty"], copies, [], 40)


def test_without_a_directory_there_is_none(copies: Copies) -> None:
    assert read_unlabelled([], copies, [], 40).files == ()

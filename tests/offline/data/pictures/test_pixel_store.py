"""Pictures are decoded once, kept on the disk, and are those that would be decoded anew."""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offline.data import dataset, originals
from offline.data.dataset import Dataset, Row
from offline.data.originals import Copies
from offline.data.pictures import pixel_store
from offline.data.pictures.pixel_store import RECORDS, PixelRows, PixelStore, picked, view_of, with_contents
from offline.data.pictures.slots import KEYS
from offline.errors import DatasetError
from offline.stream.challenge import Cell
from offline.stream.sender import CellSender, StreamSender
from stage1.preprocess import PreprocessSettings, preprocess

SETTINGS = PreprocessSettings(size_px=32)


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    """Five pictures."""
    for n in range(5):
        noise = np.random.default_rng(n).integers(0, 256, (40, 60, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG")
        (tmp_path / f"{n}.jpg").write_bytes(buffer.getvalue())
    return Dataset(tmp_path, tuple(Row(image=f"{n}.jpg", label=n % 2, group=str(n)) for n in range(5)))


def contents(rows: Dataset) -> dict[str, str]:
    return {row: hashlib.sha256(rows.file_of(row).read_bytes()).hexdigest() for row in rows.ids}


def store_of(rows: Dataset, tmp_path: Path, told: list[str] | None = None) -> PixelStore:
    def tell(_done: int, _total: int, note: str) -> None:
        if told is not None:
            told.append(note)

    return PixelStore(tmp_path / "pixels", Copies(tmp_path / "copies", SETTINGS), contents(rows), tell)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures that were decoded."""
    found: list[int] = []

    def told(content: bytes, settings: PreprocessSettings) -> np.ndarray:
        found.append(1)
        return preprocess(content, settings)

    monkeypatch.setattr(dataset, "preprocess", told)
    return found


def read(rows: Dataset, store: PixelStore) -> np.ndarray:
    images = store.images(rows.keeping(store), SETTINGS)
    assert isinstance(images, PixelRows)
    assert len(images) == len(rows)
    assert images.shape == (len(rows), 3, 32, 32)
    return images[:]


def test_nothing_is_decoded_before_it_is_read_and_nothing_twice(
    rows: Dataset, decoded: list[int], tmp_path: Path
) -> None:
    expected = rows.array(SETTINGS)
    decoded.clear()
    store = store_of(rows, tmp_path)
    images = store.images(rows.keeping(store), SETTINGS)
    assert isinstance(images, PixelRows)
    assert images.digests == images.digests
    assert decoded == []
    assert np.array_equal(images[1:3], expected[1:3])
    for found in (images[:], read(rows, store_of(rows, tmp_path)), np.stack([*images])):
        assert np.array_equal(found, expected)
    assert np.array_equal(images[np.array([3, 0])], expected[[3, 0]])
    assert np.array_equal(images[[4]], expected[4:])
    assert np.array_equal(images[np.arange(5) > 2], expected[3:])
    assert np.array_equal(images[2], expected[2])
    assert np.array_equal(picked(picked(images, np.array([4, 3, 1])), np.array([0, 2]))[:], expected[[4, 1]])
    assert len(decoded) == 5


def test_a_new_row_is_decoded_and_no_other(rows: Dataset, decoded: list[int], tmp_path: Path) -> None:
    read(rows.pick(rows.ids[:4]), store_of(rows, tmp_path))
    decoded.clear()
    assert np.array_equal(read(rows, store_of(rows, tmp_path)), rows.array(SETTINGS))
    assert len(decoded) == 1 + 5


def test_a_picture_under_another_name_is_the_same_picture_unless_a_sender_draws_by_it(
    rows: Dataset, decoded: list[int], tmp_path: Path
) -> None:
    sent = rows.sent_by(StreamSender("challenges-2026-01"))
    for data, more in ((rows, 0), (sent, 5)):
        read(data, store_of(rows, tmp_path))
        decoded.clear()
        renamed = data.called({f"new/{row}": row for row in data.ids})
        read(renamed, store_of(renamed, tmp_path))
        assert len(decoded) == more


def test_originals_that_are_sent_are_the_pictures_as_they_are(
    rows: Dataset, decoded: list[int], tmp_path: Path
) -> None:
    read(rows, store_of(rows, tmp_path))
    decoded.clear()
    read(rows.sent_by(StreamSender("originals")), store_of(rows, tmp_path))
    assert decoded == []


def test_everything_that_decides_a_pixel_is_in_the_name_of_the_view(
    rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = Copies(tmp_path, SETTINGS)
    sent = rows.sent_by(StreamSender("challenges-2026-05"))
    names = {
        view_of(rows, SETTINGS, copies),
        view_of(rows, PreprocessSettings(size_px=48), copies),
        view_of(rows, PreprocessSettings(size_px=32, geometry="crop"), copies),
        view_of(sent, SETTINGS, copies),
        view_of(rows.sent_by(StreamSender("challenges-2026-05", seed=1)), SETTINGS, copies),
        view_of(rows.sent_by(CellSender(Cell("challenges-2026-05", 1), 0)), SETTINGS, copies),
        view_of(rows.through_copies(), SETTINGS, copies),
    }
    monkeypatch.setattr(originals, "QUALITY", 50)
    names.add(view_of(rows.through_copies(), SETTINGS, copies))
    monkeypatch.setattr(pixel_store, "installed", lambda _: "0")
    pixel_store._code.cache_clear()
    names.add(view_of(rows, SETTINGS, copies))
    pixel_store._code.cache_clear()
    assert len(names) == 9


def test_a_stage_that_reads_pictures_one_by_one_reads_what_is_kept(
    rows: Dataset, decoded: list[int], tmp_path: Path
) -> None:
    store = store_of(rows, tmp_path)
    expected = read(rows.pick(rows.ids[:3]), store)
    decoded.clear()
    found = np.stack([*rows.keeping(store).pixels(SETTINGS)])
    assert len(decoded) == 2
    assert np.array_equal(found[:3], expected)


def test_rows_are_seen_through_copies_where_files_are_large(
    rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(originals, "LONGEST_PX", 50)
    store = store_of(rows, tmp_path)
    data = rows.keeping(store).through_copies()
    content = data.file_content("0.jpg")
    assert Image.open(io.BytesIO(content)).size == (50, 33)
    rows.path_of("0.jpg").unlink()
    # The copy is there, and the file is not asked for.
    assert data.file_content("0.jpg") == content
    assert data.array(SETTINGS)[0].mean() == pytest.approx(preprocess(content, SETTINGS).mean())


@pytest.mark.parametrize("copied", [False, True])
def test_a_file_that_changed_after_it_was_hashed_stops(rows: Dataset, copied: bool, tmp_path: Path) -> None:
    store = store_of(rows, tmp_path)
    rows.path_of("3.jpg").write_bytes(rows.file_of("2.jpg").read_bytes())
    with pytest.raises(DatasetError, match=r"3\.jpg: has changed since the data were split; run again from splits"):
        read(rows.through_copies() if copied else rows, store)


@pytest.mark.parametrize("damage", ["cut", "empty", "no keys"])
def test_damaged_records_are_made_again(rows: Dataset, damage: str, tmp_path: Path) -> None:
    expected = read(rows, store_of(rows, tmp_path))
    [view] = (tmp_path / "pixels").iterdir()
    name, content = (KEYS, b"") if damage == "no keys" else (RECORDS, (view / RECORDS).read_bytes()[:-1])
    (view / name).write_bytes(b"" if damage == "empty" else content)
    assert np.array_equal(read(rows, store_of(rows, tmp_path)), expected)


def test_without_room_on_the_disk_it_says_so_once_and_decodes_what_is_read(
    rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(pixel_store, "SHARE", 1e-15)
    store = store_of(rows, tmp_path, told)
    images = store.images(rows.keeping(store), SETTINGS)
    for _ in range(2):
        assert np.array_equal(images[1:3], rows.array(SETTINGS)[1:3])
    assert len(told) == 1
    assert "not kept: 0.0 GiB of pixels are more than 0% of the" in told[0]


def test_a_disk_that_fills_up_on_the_way_is_no_end_of_the_night(
    rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    monkeypatch.setattr("os.fsync", full)
    assert np.array_equal(read(rows, store_of(rows, tmp_path, told)), rows.array(SETTINGS))
    assert any("No space left on device" in note for note in told)


def test_a_directory_that_cannot_be_made_is_no_end_of_the_night(rows: Dataset, tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(b"no directory")
    told: list[str] = []
    assert np.array_equal(read(rows, store_of(rows, tmp_path, told)), rows.array(SETTINGS))
    assert "pixels cannot be written (File exists)" in told[0]


def test_records_of_another_user_are_read_although_their_time_cannot_be_set(
    rows: Dataset, decoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    expected = read(rows, store_of(rows, tmp_path))
    monkeypatch.setattr("os.utime", foreign)
    assert np.array_equal(read(rows, store_of(rows, tmp_path)), expected)
    assert len(decoded) == 5


def test_rows_whose_files_nobody_hashed_are_decoded_into_memory(rows: Dataset, tmp_path: Path) -> None:
    store = replace(store_of(rows, tmp_path), contents={})
    found = store.images(rows.keeping(store), SETTINGS)
    assert isinstance(found, np.ndarray)
    assert np.array_equal(found, rows.array(SETTINGS))
    known = with_contents(rows.keeping(store), contents(rows))
    assert isinstance(known.kept, PixelStore)
    assert isinstance(known.kept.images(known, SETTINGS), PixelRows)


def test_two_processes_that_add_to_one_view_do_not_write_over_each_other(rows: Dataset, tmp_path: Path) -> None:
    first, second = store_of(rows, tmp_path), store_of(rows, tmp_path)
    expected = rows.array(SETTINGS)
    for store, number in ((first, 0), (second, 3), (first, 4), (second, 0)):
        assert store.keep(rows, SETTINGS, {rows.ids[number]: expected[number]})
    assert np.array_equal(read(rows, store_of(rows, tmp_path)), expected)


def test_it_goes_to_another_process(rows: Dataset, tmp_path: Path) -> None:
    store = store_of(rows, tmp_path)
    expected = read(rows, store)
    images = store.images(rows.keeping(store), SETTINGS)
    assert np.array_equal(pickle.loads(pickle.dumps(images))[:], expected)

"""Pictures are decoded once, kept whole, and are those that would be decoded anew."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offline.data import dataset, pixel_store
from offline.data.dataset import Dataset, Row
from offline.data.pixel_store import PixelStore, key_of
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


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures that were decoded."""
    found: list[int] = []

    def told(content: bytes, settings: PreprocessSettings) -> np.ndarray:
        found.append(1)
        return preprocess(content, settings)

    monkeypatch.setattr(dataset, "preprocess", told)
    return found


def test_the_second_stage_decodes_nothing(rows: Dataset, decoded: list[int], tmp_path: Path) -> None:
    expected, known = rows.array(SETTINGS), contents(rows)
    decoded.clear()
    store = PixelStore(tmp_path / "pixels")
    first = store.array(rows, SETTINGS, known)
    again = PixelStore(tmp_path / "pixels").array(rows, SETTINGS, known)
    assert len(decoded) == 5
    for found in (first, again):
        assert np.array_equal(found, expected)
        assert not found.flags.writeable
        assert type(found) is np.ndarray
    assert len(list((tmp_path / "pixels").iterdir())) == 1


def test_everything_that_decides_a_pixel_is_in_the_name(rows: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    known = contents(rows)
    sent = rows.sent_by(StreamSender("challenges-2026-05"))
    names = {
        key_of(rows, SETTINGS, known),
        key_of(rows, PreprocessSettings(size_px=48), known),
        key_of(rows, PreprocessSettings(size_px=32, geometry="crop"), known),
        key_of(sent, SETTINGS, known),
        key_of(rows.sent_by(StreamSender("challenges-2026-05", seed=1)), SETTINGS, known),
        key_of(rows.sent_by(CellSender(Cell("challenges-2026-05", 1), 0)), SETTINGS, known),
        key_of(rows.pick(rows.ids[::-1]), SETTINGS, known),
        key_of(rows, SETTINGS, known | {"0.jpg": "f" * 64}),
    }
    monkeypatch.setattr(pixel_store, "installed", lambda _: "0")
    names.add(key_of(rows, SETTINGS, known))
    assert len(names) == 9


def test_a_file_that_changed_after_it_was_hashed_stops_and_leaves_nothing(rows: Dataset, tmp_path: Path) -> None:
    known = contents(rows)
    rows.path_of("3.jpg").write_bytes(rows.file_of("2.jpg").read_bytes())
    with pytest.raises(DatasetError, match=r"3\.jpg: has changed since the data were split; run again from splits"):
        PixelStore(tmp_path / "pixels").array(rows, SETTINGS, known)
    assert list((tmp_path / "pixels").iterdir()) == []


def test_a_run_that_is_killed_leaves_nothing_that_is_read(rows: Dataset, decoded: list[int], tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def tell(done: int, *_: object) -> None:
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        PixelStore(tmp_path / "pixels", tell).array(rows, SETTINGS, contents(rows))
    assert list((tmp_path / "pixels").iterdir()) == []
    decoded.clear()
    assert len(PixelStore(tmp_path / "pixels").array(rows, SETTINGS, contents(rows))) == 5
    assert len(decoded) == 5


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_made_again(rows: Dataset, damage: str, tmp_path: Path) -> None:
    store, known = PixelStore(tmp_path / "pixels"), contents(rows)
    expected = store.array(rows, SETTINGS, known).copy()
    [path] = (tmp_path / "pixels").iterdir()
    content = path.read_bytes()
    path.write_bytes({"cut": content[:-1], "empty": b"", "other": b"no pixels"}[damage])
    assert np.array_equal(store.array(rows, SETTINGS, known), expected)


def test_without_room_on_the_disk_it_says_so_and_decodes_into_memory(
    rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(pixel_store, "SHARE", 1e-15)
    store = PixelStore(tmp_path / "pixels", lambda _done, _total, note: told.append(note))
    found = store.array(rows, SETTINGS, contents(rows))
    assert np.array_equal(found, rows.array(SETTINGS))
    assert "decoding into memory: 0.0 GiB of pixels are more than 0% of the" in told[0]
    assert list((tmp_path / "pixels").iterdir()) == []


def test_a_disk_that_fills_up_on_the_way_is_no_end_of_the_night(
    rows: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    told: list[str] = []
    monkeypatch.setattr("os.fsync", full)
    store = PixelStore(tmp_path / "pixels", lambda _done, _total, note: told.append(note))
    assert np.array_equal(store.array(rows, SETTINGS, contents(rows)), rows.array(SETTINGS))
    assert "No space left on device" in told[-1]
    assert list((tmp_path / "pixels").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_no_end_of_the_night(rows: Dataset, tmp_path: Path) -> None:
    (tmp_path / "pixels").write_bytes(b"no directory")
    told: list[str] = []
    store = PixelStore(tmp_path / "pixels", lambda _done, _total, note: told.append(note))
    assert np.array_equal(store.array(rows, SETTINGS, contents(rows)), rows.array(SETTINGS))
    assert "pixels cannot be written (File exists)" in told[-1]


def test_a_file_of_another_user_is_read_although_its_time_cannot_be_set(
    rows: Dataset, decoded: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def foreign(_: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    known = contents(rows)
    expected = PixelStore(tmp_path / "pixels").array(rows, SETTINGS, known).copy()
    monkeypatch.setattr("os.utime", foreign)
    assert np.array_equal(PixelStore(tmp_path / "pixels").array(rows, SETTINGS, known), expected)
    assert len(decoded) == 5


def test_rows_whose_files_nobody_hashed_are_decoded_into_memory(rows: Dataset, tmp_path: Path) -> None:
    found = PixelStore(tmp_path / "pixels").array(rows, SETTINGS, {})
    assert np.array_equal(found, rows.array(SETTINGS))
    assert not (tmp_path / "pixels").exists()
    assert len(PixelStore(tmp_path).array(replace(rows, rows=()), SETTINGS, {})) == 0

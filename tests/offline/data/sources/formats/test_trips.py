"""Trips of the driving sets: frames at GPS fixes within events, one group a trip, for training alone."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offline.data.dataset import Dataset
from offline.data.sources.formats.trips import fixes_of
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError

FRONT = "USA/Texas/trip-1/10-20-30/FRONT_FOLDER"
EVENTS = [
    {"clip": f"{FRONT}/clip.mp4", "category": "Construction zone", "start": 1, "end": 3},
    {"clip": f"{FRONT}/clip.mp4", "category": "Heavy rain", "start": 3.5, "end": 5},
]


def layout(root: Path, events: Any = EVENTS, table: str | None = None, more: str = "") -> None:
    """The layout of the sets, with clips that are empty."""
    for folder in (FRONT, FRONT.replace("FRONT", "LEFT"), "Germany/trip-2/01-02-03/FRONT_FOLDER"):
        (root / "natix" / folder).mkdir(parents=True)
        (root / "natix" / folder / "clip.mp4").touch()
        fixes = "".join(f"{n / 2},{30 + n},-97.5\n" for n in range(12))
        (root / "natix" / folder / "gps.csv").write_text(table or f"time,latitude,longitude\n{fixes}")
    for trip in ("USA/Texas/trip-1", "Germany/trip-2"):
        (root / "natix" / trip / "fixed_metadata.json").write_text("{}")
    (root / "natix" / "data").mkdir()
    (root / "natix" / "data" / "edge-case.json").write_text(json.dumps(events))
    # The other class comes from elsewhere.
    Image.new("RGB", (40, 40)).save(root / "a.jpg")
    (root / "labels.csv").write_text("image,label\na.jpg,0\n")
    trips = f'[[source]]\nkind = "trips"\npath = "natix"\n{more}'
    (root / "sources.toml").write_text(f'[[source]]\nkind = "folder"\npath = "."\n{trips}')


def trips_of(root: Path) -> Dataset:
    data = read_dataset(root)
    return data.only(data.rows[1:])


def test_frames_in_events_of_roadwork_train_and_a_trip_is_a_group(tmp_path: Path) -> None:
    layout(tmp_path)
    found = trips_of(tmp_path)
    assert found.ids == [f"natix/{FRONT}/clip/{ms:08d}.jpg" for ms in (1000, 2000, 3000)]
    assert set(found.groups) == {"natix/USA/Texas/trip-1"}
    assert found.labels.tolist() == [1, 1, 1]
    assert all(row.train_only for row in found.rows)
    assert found.rows[0].metadata == {
        "country": "USA",
        "state": "Texas",
        "event": "Construction zone",
        "gps": "32,-97.5",
    }


def test_settings_take_other_events_for_none_other_cameras_and_more_frames(tmp_path: Path) -> None:
    layout(tmp_path, more='others = "negative"\nevery_s = 0.5\ncamera = "left"\ntrain_only = false')
    found = trips_of(tmp_path)
    assert found.labels.tolist() == [1] * 5 + [0] * 4
    assert all("/LEFT_FOLDER/" in row for row in found.ids)
    assert not any(row.train_only for row in found.rows)


@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
def test_a_clock_counts_from_the_first_fix(tmp_path: Path, unit: float) -> None:
    path = tmp_path / "gps.csv"
    path.write_text("timestamp,lat,lon\n" + "".join(f"{(1_750_000_000 + n) * unit:.0f},1,2\n" for n in (3, 1, 2)))
    assert [fix.at_s for fix in fixes_of(path)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("events", "table", "message"),
    [
        ([{"clip": "none.mp4", "type": "x"}], None, "no clip below .* can be meant by 'none.mp4'"),
        ([{"clip": "clip.mp4", "type": "x"}], None, "3 clips below .* can be meant by 'clip.mp4'"),
        ([{"video": "clip.mp4"}], None, "is not a list of events, each with a clip and a kind"),
        ([{"clip": "clip.mp4", "type": "x", "start": -1}], None, "greater than or equal to 0"),
        (EVENTS, "clock,latitude\n1,2\n", "no column of times, which is called time_s or .*; it has clock, latitude"),
        (EVENTS, "time,lat\nsoon,2\n", "line 2: time is 'soon', expected a number"),
    ],
)
def test_a_set_of_another_layout_is_refused(tmp_path: Path, events: Any, table: str | None, message: str) -> None:
    layout(tmp_path, events, table)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


def test_a_directory_without_trips_is_told(tmp_path: Path) -> None:
    (tmp_path / "natix").mkdir()
    (tmp_path / "sources.toml").write_text('[[source]]\nkind = "trips"\npath = "natix"\n')
    with pytest.raises(DatasetError, match=r"no trip in it; a trip is a directory with a fixed_metadata\.json"):
        read_dataset(tmp_path)


def write_clip(path: Path, frames: int = 60, rate: int = 10) -> None:
    """A clip whose picture is as bright as its time."""
    av: Any = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(frames):
            shade = np.full((48, 64, 3), 4 * n, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, format="rgb24")))
        container.mux(stream.encode())


def test_a_frame_is_the_picture_at_its_time_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    layout(tmp_path)
    write_clip(tmp_path / "natix" / FRONT / "clip.mp4")
    found = trips_of(tmp_path)
    for row, frame in zip(found.ids, (10, 20, 30), strict=True):
        content = found.file_of(row).read_bytes()
        assert content == found.file_of(row).read_bytes()
        assert abs(np.asarray(Image.open(io.BytesIO(content))).mean() - 4 * frame) < 4


def test_a_video_that_is_none_or_ends_before_is_named(tmp_path: Path) -> None:
    pytest.importorskip("av")
    layout(tmp_path)
    found = trips_of(tmp_path)
    with pytest.raises(OSError, match=r"clip\.mp4, at 1\.000 s: cannot be read"):
        found.file_of(found.ids[0]).read_bytes()
    write_clip(tmp_path / "natix" / FRONT / "clip.mp4", frames=12)
    with pytest.raises(OSError, match="the video ends before"):
        found.file_of(found.ids[-1]).read_bytes()

"""Shards as the hub has them are read without being unpacked."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offline.data.dataset import Dataset
from offline.data.originals import Copies
from offline.data.sources.formats import parquet
from offline.data.sources.formats.parquet import downloaded
from offline.data.sources.source import read_dataset
from offline.errors import DatasetError
from stage1.preprocess import PreprocessSettings

pa: Any = pytest.importorskip("pyarrow")
pq: Any = pytest.importorskip("pyarrow.parquet")

SETTINGS = PreprocessSettings(size_px=32)
ROWS = 9


def jpeg(seed: int) -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (40, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def columns(first: int, count: int) -> dict[str, Any]:
    """The columns of `natix-network-org/roadwork`."""
    numbers = range(first, first + count)
    return {
        "image": [{"bytes": jpeg(n), "path": f"{n}.jpg"} for n in numbers],
        "id": [f"frame-{n}" for n in numbers],
        "gps": [[52.5 + n, 13.4] for n in numbers],
        "city_name": ["Berlin"] * count,
        "scene_description": ["A street"] * count,
        "video_info": [{"frame_id": n, "seq_id": n // 2, "vid_id": f"v{n // 4}"} for n in numbers],
        "scene_level_tags": [
            {"daytime": "day", "scene_environment": "urban", "travel_alteration": None, "weather": "rain"}
        ]
        * count,
        "label": [n % 2 for n in numbers],
    }


def write(root: Path, **changes: Any) -> None:
    (root / "hub" / "data").mkdir(parents=True)
    for shard in range(2):
        table = columns(shard * ROWS, ROWS) | changes
        kept = {name: cells for name, cells in table.items() if cells is not ...}
        path = root / "hub" / "data" / f"train-{shard:05d}-of-00002.parquet"
        pq.write_table(pa.table(kept), path, row_group_size=4)
    (root / "sources.toml").write_text('[[source]]\nkind = "parquet"\npath = "hub"\nname = "natix"\n')


def test_rows_and_images_are_those_of_the_shards(tmp_path: Path) -> None:
    write(tmp_path)
    found = read_dataset(tmp_path)
    assert found.ids == [f"natix/frame-{n}.jpg" for n in range(2 * ROWS)]
    assert found.labels.tolist() == [n % 2 for n in range(2 * ROWS)]
    assert found.rows[5].metadata == {
        "id": "frame-5",
        "gps": "57.5,13.4",
        "city_name": "Berlin",
        "scene_description": "A street",
        "video_info.frame_id": "5",
        "video_info.seq_id": "2",
        "video_info.vid_id": "v1",
        "scene_level_tags.daytime": "day",
        "scene_level_tags.scene_environment": "urban",
        "scene_level_tags.weather": "rain",
    }
    assert found.rows[5].sequence("vid_id") == "v1"
    assert [found.file_of(row).read_bytes() for row in found.ids] == [jpeg(n) for n in range(2 * ROWS)]
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".parquet", ".toml"}


def test_in_order_every_group_of_rows_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    data, before, read = read_dataset(tmp_path), parquet._Groups._read, list[parquet.PackedPicture]()

    def counted(picture: parquet.PackedPicture) -> object:
        read.append(picture)
        return before(picture)

    monkeypatch.setattr(parquet._Groups, "_read", staticmethod(counted))
    # Of several threads one may fall behind by two groups, if a group has a row or four.
    monkeypatch.setattr("offline.data.dataset.usable_cores", lambda: 1)
    assert data.array(SETTINGS).any()
    assert len(read) == 2 * 3


def test_a_training_cuts_from_copies_and_not_from_the_shards(tmp_path: Path) -> None:
    write(tmp_path)
    data = read_dataset(tmp_path)
    copy = Copies(tmp_path / "copies", SETTINGS).of(data.file_of(data.ids[0]))
    assert isinstance(copy, Path)
    assert copy.read_bytes() == jpeg(0)


def test_rows_without_ids_are_called_by_their_place(tmp_path: Path) -> None:
    write(tmp_path, id=...)
    assert read_dataset(tmp_path).ids[-1] == f"natix/data/train-00001-of-00002/{ROWS - 1:06d}.jpg"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": ...}, "column label missing; it has city_name, gps, id, image"),
        ({"image": [b"bytes"] * ROWS}, "column image.bytes missing"),
        ({"label": [7] * ROWS}, "group 0, row 0: label is 7, expected 0 or 1"),
        ({"label": [None] * ROWS}, "label is None, expected 0 or 1"),
    ],
)
def test_a_shard_of_another_schema_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write(tmp_path, **changes)
    with pytest.raises(DatasetError, match=message):
        read_dataset(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "text"])
def test_a_damaged_shard_is_refused(tmp_path: Path, damage: str) -> None:
    write(tmp_path)
    [path, _] = sorted((tmp_path / "hub").rglob("*.parquet"))
    path.write_bytes({"cut": path.read_bytes()[:-100], "text": b"no shard"}[damage])
    with pytest.raises(DatasetError, match=r"train-00000-of-00002\.parquet: cannot be read as Parquet"):
        read_dataset(tmp_path)


def test_an_image_that_is_missing_in_a_row_is_named_when_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, image=[{"bytes": jpeg(0), "path": ""}, *[{"bytes": None, "path": ""}] * (ROWS - 1)])
    data = read_dataset(tmp_path)
    with pytest.raises(DatasetError, match="row 1: has no bytes of an image"):
        data.array(SETTINGS)


def test_a_group_of_rows_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 100)
    write(tmp_path)
    with pytest.raises(DatasetError, match="write the file with smaller groups of rows"):
        read_dataset(tmp_path)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "sources.toml").write_text('[[source]]\nkind = "parquet"\npath = "hub"\n')
    with pytest.raises(DatasetError, match="no such file or directory"):
        read_dataset(tmp_path)
    (tmp_path / "hub").mkdir()
    with pytest.raises(DatasetError, match="no shard in it"):
        read_dataset(tmp_path)


def test_the_gate_of_the_hub_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    httpx: Any = pytest.importorskip("httpx2")
    asked = httpx.Request("GET", "https://huggingface.co/api/datasets/natix-network-org/roadwork")

    def closed(*_: object, **__: object) -> None:
        raise hub.errors.GatedRepoError("401", response=httpx.Response(401, request=asked))

    monkeypatch.setattr(hub, "snapshot_download", closed)
    with pytest.raises(DatasetError, match=r"roadwork: is gated: sign in to .* accept its terms .*or set HF_TOKEN"):
        downloaded("natix-network-org/roadwork", None)


def test_a_hub_that_is_not_reached_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")

    def gone(*_: object, **__: object) -> None:
        raise OSError("no route to host\nmore")

    monkeypatch.setattr(hub, "snapshot_download", gone)
    with pytest.raises(DatasetError, match=r"cannot be downloaded from the hub \(no route to host\)"):
        downloaded("natix-network-org/roadwork", "main")


def test_the_hash_of_the_data_is_taken_without_reading_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    monkeypatch.setattr(parquet._Groups, "image", None)
    assert isinstance(read_dataset(tmp_path), Dataset)


def test_a_column_group_is_the_group_of_its_rows(tmp_path: Path) -> None:
    write(tmp_path, group=["7", "7.0", None, "nan", *[f"d{n}" for n in range(4, ROWS)]])
    groups = read_dataset(tmp_path).groups
    assert groups[:5] == ["natix/7", "natix/7", "natix/frame-2.jpg", "natix/frame-3.jpg", "natix/d4"]
    assert groups[ROWS] == "natix/7"
    assert not any("group" in row.metadata for row in read_dataset(tmp_path).rows)


def test_a_group_that_a_spreadsheet_has_rounded_is_refused_with_its_row(tmp_path: Path) -> None:
    write(tmp_path, group=["1.23457E+17"] * ROWS)
    with pytest.raises(DatasetError, match=r"group 0, row 0: the id '1.23457E\+17' was rounded by a spreadsheet"):
        read_dataset(tmp_path)

"""Pictures that came from callers are judged as they came; what callers do to pictures was done to them already."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from PIL import Image

from engines.engine import Engine
from offline.data.dataset import Dataset, Row
from offline.data.pictures.first_look import Places, keep_pictures
from offline.data.pictures.pixel_store import PixelStore
from offline.data.sources.source import read_dataset
from offline.evaluation.stream_cells import judge_cells
from offline.stream.sender import StreamSender
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings, preprocess

SETTINGS = PreprocessSettings(size_px=32)
SENDER = StreamSender("challenges-2026-01")
SOURCES = """[[source]]
kind = "folder"
path = "."

[[source]]
kind = "folder"
name = "harvest-random"
path = "harvest/random"
as_sent = true
"""


def write(home: Path, seed: int) -> None:
    (home / "images").mkdir(parents=True)
    lines = ["image,label"]
    for n in range(3):
        noise = np.random.default_rng((seed, n)).integers(0, 256, (40, 60, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "JPEG")
        (home / "images" / f"{n}.jpg").write_bytes(buffer.getvalue())
        lines.append(f"images/{n}.jpg,{n % 2}")
    (home / "labels.csv").write_text("\n".join(lines))


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    """Three pictures of an operator, and three that came from callers."""
    root = tmp_path / "data"
    write(root, 0)
    write(root / "harvest" / "random", 1)
    (root / "sources.toml").write_text(SOURCES)
    return read_dataset(root)


def plain(data: Dataset) -> np.ndarray:
    return np.stack([preprocess(data.file_of(row).read_bytes(), SETTINGS) for row in data.ids])


def as_plain(found: np.ndarray, data: Dataset) -> list[bool]:
    return [bool((one == other).all()) for one, other in zip(found, plain(data), strict=True)]


def test_a_stream_leaves_them_as_they_are(data: Dataset) -> None:
    assert [row.as_sent for row in data.rows] == [False] * 3 + [True] * 3
    sent = data.sent_by(SENDER)
    assert as_plain(sent.array(SETTINGS), data) == [False] * 3 + [True] * 3
    for row in data.rows:
        content = sent.content(row.image, SETTINGS)
        assert (content == data.file_of(row.image).read_bytes()) == row.as_sent


def test_what_is_kept_of_them_is_what_would_be_decoded(data: Dataset, tmp_path: Path) -> None:
    digests = {row: hashlib.sha256(data.file_of(row).read_bytes()).hexdigest() for row in data.ids}
    hashed = replace(data, contents=digests)
    places = Places(tmp_path, tmp_path / "pixels", tmp_path / "copies")
    (tmp_path / "copies").mkdir()
    kept = keep_pictures(hashed, SETTINGS, SENDER, places)
    assert isinstance(kept.kept, PixelStore)
    images = kept.kept.images(kept.sent_by(SENDER), SETTINGS)
    np.testing.assert_array_equal(images[:], data.sent_by(SENDER).array(SETTINGS))
    # The same files, once somebody says that no caller sent them, are other pictures.
    others = kept.only([row.model_copy(update={"as_sent": False}) for row in kept.rows]).sent_by(SENDER)
    assert as_plain(kept.kept.images(others, SETTINGS)[:], data) == [False] * 6


def test_rows_that_no_caller_sent_have_the_hash_that_they_had() -> None:
    row = Row(image="a.jpg", label=1, group="a")
    assert "as_sent" not in row.mark
    assert row.model_copy(update={"as_sent": True}).mark["as_sent"] is True


def test_they_are_in_no_table_of_ways_to_send(data: Dataset, certificate: Callable[..., ScrcParams]) -> None:
    """Each way would be that in which they came."""
    only = data.only([row for row in data.rows if row.as_sent])
    params, no_engine = certificate(), cast("Engine", None)
    assert params.rule is not None
    assert judge_cells(no_engine, only, params, SETTINGS, most=10, progress=lambda *_: None) == ()

"""One draw a picture, by hash: the same for every model and in every night."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from offline.data.dataset import Dataset, Row
from offline.stream.challenge import CELLS
from offline.stream.sender import CellSender, StreamSender, draw_key, sender_of
from stage1.certificate.settings import CalibrationSettings
from stage1.preprocess import PreprocessSettings
from tests.support.challenges import jpeg, patches

SETTINGS = PreprocessSettings(size_px=32)


@pytest.fixture(scope="module")
def picture() -> bytes:
    return jpeg(patches().resize((160, 90)))


def test_originals_are_sent_as_they_are() -> None:
    assert StreamSender("originals")("a.png", b"whatever it is", SETTINGS) == b"whatever it is"


def test_seed_and_name_decide_what_is_drawn(picture: bytes) -> None:
    sender = StreamSender("challenges-2026-01", seed=4)
    first = {name: sender(name, picture, SETTINGS) for name in ("a.jpg", "b.jpg", "c.jpg")}
    again = {name: StreamSender("challenges-2026-01", seed=4)(name, picture, SETTINGS) for name in reversed(first)}
    assert again == first
    assert StreamSender("challenges-2026-01", seed=5)("a.jpg", picture, SETTINGS) != first["a.jpg"]


def test_a_draw_is_the_same_on_every_machine_and_in_every_version() -> None:
    """A changed draw would give the same rows other pictures, and so the same model another certificate."""
    assert draw_key(0, "images/a.jpg").hex() == "fe75ce0a48dc63e9e451f618503d3b08"


def test_a_mixture_sends_each_era_as_often_as_its_weight_says(picture: bytes) -> None:
    weights = {"challenges-2026-04": 1.0, "challenges-2026-05": 3.0}
    sender = sender_of(CalibrationSettings.model_validate({"stream_weights": weights}))
    sizes = Counter(Image.open(io.BytesIO(sender(f"{n}.jpg", picture, SETTINGS))).size for n in range(400))
    assert set(sizes) == {(224, 224), (160, 90)}
    assert sizes[(160, 90)] / 400 == pytest.approx(0.75, abs=0.09)


def test_a_cell_sends_every_picture_in_one_way(picture: bytes) -> None:
    boxed = CellSender(CELLS[4])
    black = [
        (np.asarray(Image.open(io.BytesIO(boxed(f"{n}.jpg", picture, SETTINGS)))) < 12).all(-1).mean() for n in range(5)
    ]
    assert black == pytest.approx([0.44] * 5, abs=0.02)


def test_rows_arrive_as_they_are_sent_and_stay_the_same_rows(tmp_path: Path, picture: bytes) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(picture)
    data = Dataset(tmp_path, tuple(Row(image=name, label=n, group=name) for n, name in enumerate(("a.jpg", "b.jpg"))))
    sent = data.sent_by(StreamSender("challenges-2026-01", seed=1))
    assert sent.sha256 == data.sha256
    pixels = sent.array(SETTINGS)
    assert not np.array_equal(pixels, data.array(SETTINGS))
    assert not np.array_equal(pixels[0], pixels[1])
    # Whichever rows are beside it, and in whatever group it is.
    alone = sent.pick(["b.jpg"]).regrouped({"b.jpg": "elsewhere"})
    assert np.array_equal(alone.array(SETTINGS)[0], pixels[1])

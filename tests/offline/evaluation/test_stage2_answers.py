"""Scores of a server, joined to rows by what was sent."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.store.stage2_scores import Score, ScoredServer, scores_of
from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.evaluation.stage2_answers import LEAST_FITTED, RowScores, fitted, row_scores, sent_hashes
from offline.stream.sender import StreamSender
from stage1.preprocess import Pixels, PreprocessSettings

SETTINGS = PreprocessSettings()
SERVER = ScoredServer(kind="kserve", name="one", model="roadwork")


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    for number in range(5):
        buffer = io.BytesIO()
        Image.new("RGB", (300, 200), (40 * number, 90, 120)).save(buffer, "JPEG")
        (tmp_path / f"{number}.jpg").write_bytes(buffer.getvalue())
    return Dataset(tmp_path, tuple(Row(image=f"{n}.jpg", label=n % 2, group=str(n)) for n in range(5)))


def test_a_row_is_known_by_the_bytes_that_arrive(data: Dataset) -> None:
    steps: list[tuple[int, int]] = []
    found = sent_hashes(data, SETTINGS, lambda done, total, _: steps.append((done, total)), "test")
    assert found == [hashlib.sha256((data.root / f"{n}.jpg").read_bytes()).hexdigest() for n in range(5)]
    assert steps == [(5, 5)]
    sent = data.sent_by(StreamSender("challenges-2026-01"))
    others = sent_hashes(sent, SETTINGS, lambda *_: None, "test")
    assert others == [hashlib.sha256(sent.content(row, SETTINGS)).hexdigest() for row in sent.ids]
    assert not set(others) & set(found)


class Copies:
    """Has a smaller copy of each picture, as the workspace of a night does."""

    def content(self, rows: Dataset, row: str) -> bytes:  # noqa: ARG002
        return b"a smaller copy"

    def stored(self, rows: Dataset, row: str, settings: PreprocessSettings) -> Pixels | None:  # noqa: ARG002
        return None


def test_a_night_that_looks_at_copies_knows_a_row_by_its_very_file(data: Dataset) -> None:
    found = sent_hashes(data.keeping(Copies()), SETTINGS, lambda *_: None, "test")
    assert found == sent_hashes(data, SETTINGS, lambda *_: None, "test")


def test_a_file_that_is_gone_is_named(data: Dataset) -> None:
    (data.root / "3.jpg").unlink()
    with pytest.raises(DatasetError, match=r"3\.jpg"):
        sent_hashes(data, SETTINGS, lambda *_: None, "test")


def test_scores_are_joined_in_the_order_of_the_rows(tmp_path: Path) -> None:
    kept = scores_of(tmp_path, SERVER)
    kept.keep(
        [
            Score(image="a" * 64, score=0.25, ms=10.0, cost=0.5),
            Score(image="b" * 64, score=None, ms=3.0, reason="neither yes nor no"),
        ]
    )
    found = row_scores(["b" * 64, "c" * 64, "a" * 64], kept)
    assert found.asked.tolist() == [True, False, True]
    assert found.answered.tolist() == [False, False, True]
    assert found.ms.tolist() == [3.0, 0.0, 10.0]
    assert np.array_equal(found.score, [np.nan, np.nan, 0.25], equal_nan=True)
    assert np.array_equal(found.cost, [np.nan, np.nan, 0.5], equal_nan=True)
    assert np.array_equal(found.calibrated(None), found.score, equal_nan=True)


def drawn(rows: int, seed: int = 0) -> tuple[RowScores, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.5).astype(np.int8)
    score = np.clip(0.05 + 0.2 * labels + rng.normal(0, 0.05, rows), 0, 1)
    return RowScores(np.ones(rows, bool), score, np.ones(rows), np.full(rows, np.nan)), labels


def alone(rows: int) -> np.ndarray:
    """Each row in a group of its own."""
    return np.array([str(row) for row in range(rows)], np.str_)


def test_a_detector_that_is_timid_answers_roadwork_once_it_is_calibrated() -> None:
    select, labels = drawn(200)
    test, truth = drawn(200, seed=1)
    found = test.calibrated(fitted(select, labels, alone(200)))
    assert ((test.score > 0.5) == truth).mean() < 0.6
    assert ((found > 0.5) == truth).mean() > 0.95


def test_too_few_rows_of_a_class_fit_nothing() -> None:
    few, labels = drawn(LEAST_FITTED - 1)
    assert fitted(few, labels, alone(len(labels))) is None
    many, _ = drawn(200)
    assert fitted(many, np.zeros(200, np.int8), alone(200)) is None

"""Rows whose labels held-out answers contradict."""

from __future__ import annotations

import csv
import io

import numpy as np

from offline.learning.race.suspects import suspects, suspects_csv


def drawn(flipped: list[int]) -> tuple[list[str], np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = (rng.random(400) < 0.4).astype(np.int8)
    log_odds = rng.normal((labels - 0.5) * 8, 1.0)
    labels[flipped] = 1 - labels[flipped]
    return [f"{row}.jpg" for row in range(400)], labels, log_odds


def test_flipped_labels_are_listed_the_worst_first() -> None:
    flipped = [3, 77, 200]
    ids, labels, log_odds = drawn(flipped)
    found = suspects(ids, labels, log_odds)
    assert {one.row for one in found} == {f"{row}.jpg" for row in flipped}
    assert [one.loss for one in found] == sorted((one.loss for one in found), reverse=True)


def test_no_more_than_the_share_is_listed_and_nobody_that_agrees() -> None:
    ids, labels, log_odds = drawn(list(range(0, 100, 2)))
    assert len(suspects(ids, labels, log_odds)) == 8
    ids, labels, log_odds = drawn([])
    assert suspects(ids, labels, log_odds) == []


def test_a_row_that_merely_is_hard_is_not_suspect() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1] * 20, np.int8)
    log_odds = np.where(labels == 1, 6.0, -6.0)
    log_odds[0] = 0.3
    assert suspects([str(row) for row in range(120)], labels, log_odds) == []


def test_the_table_has_an_empty_column_for_the_right_label() -> None:
    ids, labels, log_odds = drawn([5])
    rows = list(csv.DictReader(io.StringIO(suspects_csv(suspects(ids, labels, log_odds)))))
    assert [(row["image"], row["new_label"]) for row in rows] == [("5.jpg", "")]
    assert rows[0]["label"] == str(labels[5])

"""The interval of the best of several: wide enough for having been chosen, and no wider."""

from __future__ import annotations

import numpy as np
import pytest

from offline.learning.self_distillation.gain import gain_of
from stage1.metrics.classification import roc_auc

ROWS = 160


def scores(rng: np.random.Generator, labels: np.ndarray, apart: float, shared: np.ndarray) -> np.ndarray:
    return np.asarray(apart * labels + shared + 0.7 * rng.normal(size=len(labels)))


def test_the_best_of_ten_that_are_no_better_is_seldom_called_better() -> None:
    """In 2.5% of the draws at most, within three standard errors."""
    rng = np.random.default_rng(0)
    draws, called, naive = 200, 0, 0
    for draw in range(draws):
        labels, shared = rng.integers(0, 2, ROWS), rng.normal(size=ROWS)
        before, *judged = (scores(rng, labels, 1.0, shared) for _ in range(11))
        best = int(np.argmax([roc_auc(each, labels)(np.ones(ROWS)) for each in judged]))
        found = gain_of(before, judged, best, labels, np.arange(ROWS), seed=draw, repetitions=150)
        alone = gain_of(before, [judged[best]], 0, labels, np.arange(ROWS), seed=draw, repetitions=150)
        called += found.lower > 0
        naive += alone.lower > 0
    assert called <= draws * 0.025 + 3 * np.sqrt(draws * 0.025 * 0.975)
    # The interval of one that nobody chose is not enough for the best of ten.
    assert naive > 2 * called


def test_one_that_is_better_is_seen() -> None:
    rng = np.random.default_rng(1)
    labels, shared = rng.integers(0, 2, 600), rng.normal(size=600)
    before, better = (scores(rng, labels, apart, shared) for apart in (0.5, 2.0))
    found = gain_of(before, [before, better], 1, labels, np.arange(600), seed=0)
    ones = np.ones(600)
    assert found.estimate == pytest.approx(roc_auc(better, labels)(ones) - roc_auc(before, labels)(ones))
    assert 0 < found.lower < found.estimate < found.upper
    assert (found.level, found.judged) == (0.95, 2)


def test_rows_of_one_group_count_as_one() -> None:
    """Each group many times over says no more than once."""
    rng = np.random.default_rng(2)
    labels, shared = rng.integers(0, 2, 60), rng.normal(size=60)
    before, after = (scores(rng, labels, apart, shared) for apart in (0.5, 1.5))
    once = gain_of(before, [after], 0, labels, np.arange(60), seed=0)
    often = gain_of(
        *(np.tile(before, 9), [np.tile(after, 9)], 0), np.tile(labels, 9), np.tile(np.arange(60), 9), seed=0
    )
    assert often.lower == pytest.approx(once.lower, abs=0.01)


def test_where_no_draw_says_anything_nothing_is_claimed() -> None:
    """Two groups, each of one class: a draw that has one of them twice has no area, and here there is no other."""
    labels, groups = np.asarray([0, 1]), np.asarray(["a", "b"])
    scores_of = np.asarray([1.0, 0.0]), np.asarray([0.0, 1.0])
    seed = next(n for n in range(50) if len({*np.random.default_rng(n).integers(2, size=2).tolist()}) == 1)
    found = gain_of(scores_of[0], [scores_of[1]], 0, labels, groups, seed=seed, repetitions=1)
    assert (found.estimate, found.lower, found.upper) == (1.0, -1.0, 1.0)

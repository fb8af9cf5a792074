"""Exits at given miss rates, against a plain count."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss as oracle

from offline.learning.race.exit_share import ExitShare, log_loss


def counted(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray, miss: float, alarms: float) -> float:
    """The share by trying every cut."""
    positive, negative = weights * (labels == 1), weights * (labels == 0)
    low = max(
        (cut for cut in (*scores, np.inf) if positive[scores < cut].sum() <= miss * positive.sum() + 1e-9),
        default=-np.inf,
    )
    high = min(
        (cut for cut in (*scores, -np.inf) if negative[scores > cut].sum() <= alarms * negative.sum() + 1e-9),
        default=np.inf,
    )
    return float(weights[(scores < low) | (scores > high)].sum() / weights.sum())


@pytest.mark.parametrize("seed", range(20))
def test_the_share_is_that_of_a_plain_count(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(80) < 0.4).astype(np.int8)
    # Rounded, so that there are ties.
    scores = np.round(rng.normal(labels * 1.5, 1.0), 1)
    weights = rng.integers(0, 3, 80).astype(float)
    found = ExitShare(scores, labels, 0.05, (0.02, 0.1))(weights)
    assert found == pytest.approx(np.mean([counted(scores, labels, weights, m, 0.05) for m in (0.02, 0.1)]))


def test_a_perfect_model_lets_everything_exit_and_a_constant_one_nothing() -> None:
    labels = np.array([0, 0, 1, 1])
    weights = np.ones(4)
    assert ExitShare(np.array([-2.0, -1.0, 1.0, 2.0]), labels, 0.02)(weights) == 1.0
    assert ExitShare(np.zeros(4), labels, 0.02)(weights) == 0.0


def test_any_increasing_map_of_the_scores_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(200) < 0.3).astype(np.int8)
    scores = rng.normal(labels * 2.0, 1.0)
    weights = np.ones(200)
    assert ExitShare(scores, labels, 0.02)(weights) == ExitShare(np.exp(scores), labels, 0.02)(weights)


def test_without_one_of_the_classes_there_is_no_share() -> None:
    share = ExitShare(np.array([0.0, 1.0]), np.array([0, 1]), 0.02)
    assert np.isnan(share(np.array([1.0, 0.0])))
    assert np.isnan(share(np.array([0.0, 1.0])))


def test_log_loss_is_that_of_the_library() -> None:
    rng = np.random.default_rng(0)
    labels, odds = (rng.random(50) < 0.5).astype(np.int8), rng.normal(0, 3, 50)
    assert log_loss(odds, labels) == pytest.approx(oracle(labels, expit(odds)))

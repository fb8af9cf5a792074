"""What exits at equal risk, against a count of every pair of thresholds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.metrics.exits_at_risk import ExitShares

RATES = np.array([0.0, 0.02, 0.1, 0.3])


def by_hand(score: np.ndarray, labels: np.ndarray, risk: float, alarms: float) -> float:
    """The highest share that exits, threshold by threshold."""
    cuts = [*np.unique(score), np.inf]
    negatives, positives = labels == 0, labels == 1
    quiet = [t for t in cuts if np.sum(negatives & (score >= t)) <= alarms * negatives.sum() + 1e-9]
    fair = [np.mean(score[negatives] < t) - np.mean(score[positives] < t) for t in cuts]
    t1 = max(min(quiet), cuts[int(np.argmax(fair))])
    best = 0.0
    for t0 in cuts:
        missed, hit = np.sum(positives & (score < t0)), np.sum(positives & (score >= t1))
        if t0 <= t1 and missed <= risk / (1 - risk) * hit + 1e-9:
            best = max(best, float(np.mean((score < t0) | (score >= t1))))
    return best


@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 1)), min_size=2, max_size=60),
    st.sampled_from([0.0, 0.02, 0.2]),
)
def test_is_what_counting_gives(rows: list[tuple[int, int]], alarms: float) -> None:
    score = np.array([value for value, _ in rows], np.float32)
    labels = np.array([label for _, label in rows], np.int8)
    labels[:2] = [0, 1]
    found = ExitShares.of(score, labels, alarms).at(RATES)
    assert found == pytest.approx([by_hand(score, labels, risk, alarms) for risk in RATES.tolist()])


def test_a_weight_is_a_repetition() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random(80) < 0.4).astype(np.int8)
    score, weights = rng.normal(labels * 2.0).round(1), rng.integers(0, 4, 80)
    again = np.repeat(np.arange(80), weights)
    weighted = ExitShares.of(score, labels, 0.05).at(RATES, weights.astype(np.float64))
    assert weighted == pytest.approx(ExitShares.of(score[again], labels[again], 0.05).at(RATES))


def test_only_the_order_of_the_scores_matters() -> None:
    """A training that moves the cut, or a calibration of the probability, changes nothing."""
    rng = np.random.default_rng(1)
    labels = (rng.random(300) < 0.4).astype(np.int8)
    score = rng.normal(labels * 2.0)
    moved = ExitShares.of(1 / (1 + np.exp(-(3 * score - 5))), labels, 0.02)
    assert np.array_equal(moved.at(RATES), ExitShares.of(score, labels, 0.02).at(RATES))


def test_it_is_undefined_without_a_class_and_without_rows() -> None:
    shares = ExitShares.of(np.arange(4.0), np.array([0, 0, 1, 1]), 0.02)
    assert np.isnan(shares.at(RATES, np.array([1.0, 1.0, 0.0, 0.0]))).all()
    assert np.isnan(shares.mean(RATES, np.array([0.0, 0.0, 1.0, 1.0])))
    with pytest.raises(ValueError, match="0 scores of 0 labels"):
        ExitShares.of(np.zeros(0), np.zeros(0, np.int8), 0.02)

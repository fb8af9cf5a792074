"""AUC against scikit-learn, and what an interval can see."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.learning.table.statistics import aligned, auc, estimate, pairs_in_groups


def test_auc_is_that_of_scikit_learn_with_weights_and_ties() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    scores = np.round(rng.normal(size=300) + labels, 1)
    weights = rng.integers(4, size=300).astype(float)
    assert auc(labels, scores, weights) == pytest.approx(roc_auc_score(labels, scores, sample_weight=weights))
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores))


def test_auc_of_one_class_is_not_a_number() -> None:
    assert np.isnan(auc(np.ones(3, int), np.arange(3.0)))


def test_a_difference_that_can_be_seen_in_80_percent_is_2_8_standard_deviations() -> None:
    samples = np.random.default_rng(1).normal(0, 0.5, 100_000)
    assert estimate(0.0, samples).visible == pytest.approx(2.8 * 0.5, rel=0.01)


def test_power_is_what_it_says() -> None:
    rng = np.random.default_rng(2)
    visible = estimate(0.0, rng.normal(0, 1, 2000)).visible
    seen = [estimate(0.0, rng.normal(visible + rng.normal(), 1, 2000)).sign > 0 for _ in range(400)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.07)


def test_what_is_nowhere_defined_has_no_sign() -> None:
    assert estimate(float("nan"), np.full(10, np.nan)).sign == 0


def test_a_table_is_aligned() -> None:
    assert aligned([["a", "bb"], ["ccc", "d"]]).splitlines() == ["| a   | bb |", "|-----|----|", "| ccc | d  |"]


def test_pairs_inside_groups_do_not_feel_a_shift_between_them() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], [40, 60, 20])
    labels = np.where(groups == "c", 1, rng.integers(2, size=120))
    scores = rng.normal(size=120) + labels
    right, pairs = pairs_in_groups(labels, scores, groups)
    shifted = pairs_in_groups(labels, scores + 100.0 * (groups == "a"), groups)
    assert np.array_equal(right, shifted[0])
    ours = [auc(labels[groups == name], scores[groups == name]) for name in "ab"]
    count = [(labels[groups == name] == 0).sum() * (labels[groups == name] == 1).sum() for name in "ab"]
    assert right.sum() / pairs.sum() == pytest.approx(np.average(ours, weights=count))

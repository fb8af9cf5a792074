"""Frozen features judged by a linear probe and by their neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from offline.learning.self_distillation.probe import NEIGHBOURS, RIDGE, TEMPERATURE, linear_probe, nearest_neighbours
from stage1.metrics.classification import matthews_correlation

Probe = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def classes(count: int, apart: float, seed: int, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < share).astype(np.int8)
    features = rng.normal(size=(count, 6))
    features[:, 0] += apart * labels
    return features * np.array([1, 5, 0.1, 1, 1, 1]), labels


def found(probe: Probe, train: tuple[np.ndarray, np.ndarray], held: tuple[np.ndarray, np.ndarray]) -> float:
    """Matthews correlation of what a probe says."""
    return matthews_correlation(held[1], (probe(*train, held[0]) > 0).astype(np.int8))


@pytest.mark.parametrize("probe", [linear_probe, nearest_neighbours])
def test_features_that_tell_the_classes_apart_are_judged_better(probe: Probe) -> None:
    good, middling, none = (found(probe, classes(600, apart, 0), classes(400, apart, 1)) for apart in (6.0, 2.0, 0.0))
    assert good > 0.9
    assert good > middling > none
    assert abs(none) < 0.15


def test_the_probe_is_a_logistic_regression_with_balanced_classes() -> None:
    train, held = classes(500, 2.0, 0, share=0.2), classes(300, 2.0, 1, share=0.2)
    scaler = StandardScaler().fit(train[0])
    # scikit-learn sums the losses of rows that weigh 1 on average; here they are averaged.
    oracle = LogisticRegression(C=1 / (RIDGE * 500), class_weight="balanced", tol=1e-8, max_iter=1000)
    guess = oracle.fit(scaler.transform(train[0]), train[1]).predict(scaler.transform(held[0]))
    assert found(linear_probe, train, held) == pytest.approx(matthews_correlation(held[1], guess), abs=0.02)


def test_neighbours_vote_by_their_cosine() -> None:
    train, held = classes(300, 3.0, 0), classes(200, 3.0, 1)

    def weigh(distance: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp((1 - distance) / TEMPERATURE))

    oracle = KNeighborsClassifier(NEIGHBOURS, metric="cosine", weights=weigh, algorithm="brute").fit(*train)
    assert found(nearest_neighbours, train, held) == pytest.approx(
        matthews_correlation(held[1], oracle.predict(held[0])), abs=1e-9
    )


def test_fewer_rows_than_neighbours_all_vote() -> None:
    train = np.eye(4), np.array([0, 0, 1, 1])
    assert found(nearest_neighbours, train, (np.eye(4), train[1])) == 1.0

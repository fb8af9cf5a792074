"""Metrics of answers and of rankings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MCC_WINDOW = 100
ACCURACY_WINDOW = 10


def accuracy(labels: NDArray[np.integer], predictions: NDArray[np.integer]) -> float:
    """Share of equal entries; 0 for no entries."""
    return float(np.mean(labels == predictions)) if len(labels) else 0.0


def matthews_correlation(labels: NDArray[np.integer], predictions: NDArray[np.integer]) -> float:
    """Matthews correlation coefficient of two 0/1 vectors; 0 where either has a single class."""
    if len(labels) == 0 or labels.std() == 0 or predictions.std() == 0:
        return 0.0
    return float(np.corrcoef(labels, predictions)[0, 1])


def rounded(probabilities: NDArray[np.floating] | Sequence[float]) -> NDArray[np.int8]:
    """Class of each answered probability as validators round it: half goes to 0."""
    return np.round(np.asarray(probabilities, dtype=np.float64)).astype(np.int8)


def subnet_reward(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Mean reward of subnet 72 over a stream of challenges.

    After each challenge the reward is (0.5 MCC of the last 100 + 0.5 accuracy of the last 10) cubed, MCC floored at 0.
    Answers of -1 earn 0 for that challenge and are left out of both windows.

    Args:
        labels: 0 or 1, in order of arrival, `(N,)`.
        probabilities: answers in [0, 1], or -1, `(N,)`.

    Returns:
        Mean over all N challenges, in [0, 1]; 0 for no challenges.
    """
    if len(labels) == 0:
        return 0.0
    answered = probabilities >= 0
    truth, guess = labels[answered], rounded(probabilities[answered])
    total = 0.0
    for end in range(1, len(truth) + 1):
        window = slice(max(0, end - MCC_WINDOW), end)
        mcc = max(0.0, matthews_correlation(truth[window], guess[window]))
        recent = slice(max(0, end - ACCURACY_WINDOW), end)
        total += (0.5 * mcc + 0.5 * accuracy(truth[recent], guess[recent])) ** 3
    return total / len(labels)


def area_under_generalized_risk(confidence: NDArray[np.floating], losses: NDArray[np.floating]) -> float:
    """AUGRC: mean rate of silent failures over all working points, in [0, 1/2]; lower is better.

    Rows with the same confidence enter together, so the order of rows does not matter.

    Args:
        confidence: larger means answered earlier, `(N,)`.
        losses: loss of each row in [0, 1], `(N,)`.

    References:
        Traub et al. (2024), Overcoming common flaws in the evaluation of selective classification, arXiv 2407.01032.
    """
    total = len(confidence)
    if total == 0:
        return 0.0
    order = np.argsort(confidence)[::-1]
    ranked = np.asarray(confidence)[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(ranked)), total - 1)
    risk = np.cumsum(np.asarray(losses, dtype=np.float64)[order])[last_of_tie] / total
    coverage = (last_of_tie + 1) / total
    return float(np.trapezoid(np.append(0.0, risk), np.append(0.0, coverage)))

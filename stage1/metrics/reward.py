"""What subnet 72 pays: the reward of a stream of answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MCC_WINDOW = 100
ACCURACY_WINDOW = 10


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
    truth, guess = labels[answered] == 1, rounded(probabilities[answered]) == 1
    both, true, guessed, size = (
        _in_window(values, MCC_WINDOW) for values in (truth & guess, truth, guess, np.ones_like(truth))
    )
    spread = true * (size - true) * guessed * (size - guessed)
    # A window of one class has covariance 0 too, so any number but 0 may stand below the line.
    mcc = np.maximum(size * both - true * guessed, 0) / np.sqrt(np.maximum(spread, 1))
    right, recent = (_in_window(values, ACCURACY_WINDOW) for values in (truth == guess, np.ones_like(truth)))
    return float(np.sum((0.5 * mcc + 0.5 * right / recent) ** 3)) / len(labels)


def _in_window(values: NDArray[np.bool_], window: int) -> NDArray[np.int64]:
    """How many of the last `window` values are true, after each of them, `(N,)`."""
    count = np.cumsum(values, dtype=np.int64)
    count[window:] -= count[:-window].copy()
    return count

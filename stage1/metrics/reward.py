"""What subnet 72 pays: the reward of a stream of answers.

Source:
    `natix/validator/scoring/` of the subnet (`reward.py`, `performance_tracker.py`) and `update_scores` of
    `natix/base/validator.py`, as of May 2026.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MCC_WINDOW = 100
ACCURACY_WINDOW = 10
EXPONENT = 3
# Weight of the newest reward in the score that a validator keeps of a miner.
SCORE_WEIGHT = 0.05
# What a validator has of a miner that did not answer.
NO_ANSWER = -1.0


def rounded(probabilities: NDArray[np.floating] | Sequence[float]) -> NDArray[np.int8]:
    """Class of each answered probability as validators round it: half goes to 0."""
    return np.round(np.asarray(probabilities, dtype=np.float64)).astype(np.int8)


@dataclass(frozen=True)
class ChallengeRewards:
    """What a validator computes after each challenge.

    Attributes:
        reward: reward of the challenge, in [0, 1], `(..., N)`.
        mcc: Matthews correlation of the last 100 challenges, floored at 0, `(..., N)`.
        accuracy: accuracy of the last 10 challenges, `(..., N)`.
    """

    reward: NDArray[np.float64]
    mcc: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean reward over all streams; 0 for no challenges."""
        return float(np.mean(self.reward)) if self.reward.size else 0.0

    @property
    def score(self) -> NDArray[np.float64]:
        """The validator's moving average of the rewards of one stream after each challenge, from 0, `(N,)`."""
        score, scores = 0.0, np.empty(len(self.reward))
        for place, reward in enumerate(self.reward):
            score = SCORE_WEIGHT * float(reward) + (1 - SCORE_WEIGHT) * score
            scores[place] = score
        return scores


def challenge_rewards(labels: NDArray[np.integer], answers: NDArray[np.floating]) -> ChallengeRewards:
    """What a validator pays for each challenge of a stream, or of several streams at once.

    After a challenge the reward is (0.5 MCC of the last 100 challenges + 0.5 accuracy of the last 10) cubed. An answer
    of -1 earns 0. It takes a place in both windows, and is left out of what is computed from them. An answer outside
    [0, 1] earns 0 and counts in the windows like any other. One that is NaN, or rounds to neither class, earns 0 too,
    and while it is in a window that window counts as 0: there the validators' metrics fail, which is exact but for
    windows in which every label is 1.

    Args:
        labels: 0 or 1, in order of arrival, `(..., N)`.
        answers: what came, -1 if nothing did, `(..., N)`.
    """
    answered, classes = answers != NO_ANSWER, np.round(answers)
    known = answered & ((classes == 0) | (classes == 1))
    truth, guess = known & (labels == 1), known & (classes == 1)
    both, true, guessed, size = (_in_window(values, MCC_WINDOW) for values in (truth & guess, truth, guess, known))
    spread = true * (size - true) * guessed * (size - guessed)
    # A window of one class has covariance 0 too, so any number but 0 may stand below the line.
    mcc = np.maximum(size * both - true * guessed, 0) / np.sqrt(np.maximum(spread, 1))
    right, recent = (_in_window(values, ACCURACY_WINDOW) for values in (known & (truth == guess), known))
    accuracy = right / np.maximum(recent, 1)
    strange = answered & ~known
    if strange.any():
        mcc = np.where(_in_window(strange, MCC_WINDOW) > 0, 0.0, mcc)
        accuracy = np.where(_in_window(strange, ACCURACY_WINDOW) > 0, 0.0, accuracy)
    paid = (answers >= 0) & (answers <= 1)
    return ChallengeRewards(np.where(paid, (0.5 * mcc + 0.5 * accuracy) ** EXPONENT, 0.0), mcc, accuracy)


def subnet_reward(labels: NDArray[np.integer], probabilities: NDArray[np.floating]) -> float:
    """Mean reward of subnet 72 over a stream of challenges, see `challenge_rewards`.

    Args:
        labels: 0 or 1, in order of arrival, `(N,)`.
        probabilities: answers in [0, 1], or -1, `(N,)`.

    Returns:
        Mean over all N challenges, in [0, 1]; 0 for no challenges.
    """
    return challenge_rewards(labels, probabilities).mean


def _in_window(values: NDArray[np.bool_], window: int) -> NDArray[np.int64]:
    """How many of the last `window` values are true, after each of them along the last axis, `(..., N)`."""
    count = np.cumsum(values, axis=-1, dtype=np.int64)
    count[..., window:] -= count[..., :-window].copy()
    return count

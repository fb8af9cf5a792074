"""What a validator pays, slowly: one challenge after the other, with the lists that it keeps; none of our code."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence


class Validator:
    """Keeps the last 100 answers and labels of one miner, and its score."""

    def __init__(self) -> None:
        self.answers: deque[float] = deque(maxlen=100)
        self.labels: deque[int] = deque(maxlen=100)
        self.score = 0.0

    def reward(self, label: int, answer: float) -> float:
        """Note one challenge down and pay for it."""
        self.answers.append(answer)
        self.labels.append(label)
        mcc, _ = self.metrics(100)
        _, accuracy = self.metrics(10)
        paid = 0.0
        if answer != -1:
            penalty = 0.0 if answer < 0 or answer > 1 else 1.0
            paid = ((0.5 * mcc + 0.5 * accuracy) * penalty) ** 3
        self.score = 0.05 * paid + 0.95 * self.score
        return paid

    def metrics(self, window: int) -> tuple[float, float]:
        """Correlation, floored at 0, and accuracy of the last challenges; those with -1 are no part of them."""
        recent = list(zip(self.labels, self.answers, strict=True))[-window:]
        kept = [(label, answer) for label, answer in recent if answer != -1]
        # What no class can be made of ends the whole computation, and a validator then writes zeros down.
        if not kept or any(not math.isfinite(answer) or round(answer) not in (0, 1) for _, answer in kept):
            return 0.0, 0.0
        table = [[0, 0], [0, 0]]
        for label, answer in kept:
            table[label][round(answer)] += 1
        (tn, fp), (fn, tp) = table
        below = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        mcc = (tp * tn - fp * fn) / math.sqrt(below) if below else 0.0
        return max(0.0, mcc), (tp + tn) / len(kept)


def rewards_of(labels: Sequence[int], answers: Sequence[float]) -> list[float]:
    """The reward of each challenge."""
    validator = Validator()
    return [validator.reward(label, answer) for label, answer in zip(labels, answers, strict=True)]


def score_of(labels: Sequence[int], answers: Sequence[float]) -> float:
    """The score that the validator has of the miner at the end."""
    validator = Validator()
    for label, answer in zip(labels, answers, strict=True):
        validator.reward(label, answer)
    return validator.score

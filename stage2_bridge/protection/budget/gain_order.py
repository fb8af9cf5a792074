"""What an answer of Stage-2 is worth, so that a budget is spent where it is worth the most."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Protocol

KEPT, FEWEST = 1024, 32


class GainOrder(Protocol):
    """Orders images by the accuracy that handing them on is expected to gain."""

    def gain(self, p: float) -> float:
        """Expected gain in accuracy of handing on an image.

        Args:
            p: Stage-1's calibrated probability of roadwork, in [0, 1].
        """
        ...

    def threshold(self, share: float) -> float:
        """The gain above which a share of the hand-offs lies.

        Args:
            share: in [0, 1].
        """
        ...


class UncertaintyOrder:
    """Takes for the gain how likely Stage-1's own answer is wrong, min(p, 1 - p): what a perfect Stage-2 would gain.

    The threshold is that of the latest images.
    """

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def gain(self, p: float) -> float:
        """See `GainOrder.gain`; takes note of it."""
        gain = min(p, 1 - p)
        self._latest.append(gain)
        insort(self._sorted, gain)
        if len(self._latest) > KEPT:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]
        return gain

    def threshold(self, share: float) -> float:
        """See `GainOrder.threshold`; of few images, that of gains which are spread evenly."""
        if share >= 1:
            return 0.0
        number = len(self._sorted)
        if number < FEWEST:
            return 0.5 * (1 - share)
        return self._sorted[min(number - 1, int((1 - share) * number))]

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


class LatestGains:
    """Gains of the latest images, by which a share of them is told from the others."""

    def __init__(self) -> None:
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, gain: float) -> None:
        """An image would gain this."""
        self._latest.append(gain)
        insort(self._sorted, gain)
        if len(self._latest) > KEPT:
            del self._sorted[bisect_left(self._sorted, self._latest.popleft())]

    def threshold(self, share: float) -> float | None:
        """The gain that this share of them reaches; None where there were few.

        Args:
            share: in [0, 1].
        """
        number = len(self._sorted)
        return None if number < FEWEST else self._sorted[min(number - 1, int((1 - share) * number))]


class UncertaintyOrder:
    """Takes for the gain how likely Stage-1's own answer is wrong, min(p, 1 - p): what a perfect Stage-2 would gain.

    The threshold is that of the latest images.
    """

    def __init__(self) -> None:
        self._latest = LatestGains()

    def gain(self, p: float) -> float:
        """See `GainOrder.gain`; takes note of it."""
        gain = min(p, 1 - p)
        self._latest.add(gain)
        return gain

    def threshold(self, share: float) -> float:
        """See `GainOrder.threshold`; of few images, that of gains which are spread evenly."""
        if share >= 1:
            return 0.0
        found = self._latest.threshold(share)
        return 0.5 * (1 - share) if found is None else found

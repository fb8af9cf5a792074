"""How long the latest answers took."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque

KEPT, FEWEST = 256, 20


class RecentTimes:
    """The latest times and their quantiles.

    Args:
        kept: how many.
        fewest: below it nothing is said of them.
    """

    def __init__(self, kept: int = KEPT, fewest: int = FEWEST) -> None:
        self._kept, self._fewest = kept, fewest
        self._times: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, seconds: float) -> None:
        """Take note of one."""
        self._times.append(seconds)
        insort(self._sorted, seconds)
        if len(self._times) > self._kept:
            del self._sorted[bisect_left(self._sorted, self._times.popleft())]

    def quantile(self, level: float) -> float | None:
        """The time that a share of `level` does not exceed, in seconds; None while there are too few.

        Args:
            level: in [0, 1).
        """
        if len(self._sorted) < self._fewest:
            return None
        return self._sorted[max(0, math.ceil(level * len(self._sorted)) - 1)]

"""The latest of a stream of numbers, and where a share of them lies."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque


class LatestValues:
    """So many of them; of few nothing is said.

    Args:
        kept: how many.
        fewest: below it nothing is said of them.
    """

    def __init__(self, kept: int, fewest: int) -> None:
        self._kept, self._fewest = kept, fewest
        self._values: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, value: float) -> None:
        """Take note of one."""
        self._values.append(value)
        insort(self._sorted, value)
        if len(self._values) > self._kept:
            del self._sorted[bisect_left(self._sorted, self._values.popleft())]

    def quantile(self, level: float) -> float | None:
        """The smallest of them that a share of `level` does not exceed; None while there are too few.

        Args:
            level: in [0, 1].
        """
        number = len(self._sorted)
        return None if number < self._fewest else self._sorted[max(0, math.ceil(level * number) - 1)]

    def reached_by(self, share: float) -> float | None:
        """The largest of them that a share reaches; None while there are too few.

        Args:
            share: in [0, 1].
        """
        number = len(self._sorted)
        return None if number < self._fewest else self._sorted[min(number - 1, int((1 - share) * number))]

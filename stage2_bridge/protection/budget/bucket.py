"""The arithmetic of a budget: a token bucket that no period exceeds, and the share of the traffic that it can afford.

A bucket that holds b and wins r a second back spends at most b + r T in a time T, whenever that begins. With
r = (N - b) / T no period of the length T has more than N.

Reference:
    Cruz (1991), A calculus for network delay, part I, IEEE Transactions on Information Theory 37(1), section II, the
    (sigma, rho) bound of a traffic stream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of what the bucket holds: kept for the chance by which more comes than was expected.
KEPT_SHARE = 0.2
# Of what comes back: spent all the same while less than that is there, so that an empty bucket is of use at once.
LEAST_SPENT_SHARE = 0.5
# Periods divided by this: over so long the level of a bucket is spent or won back, and traffic is averaged.
HORIZONS = 24


@dataclass(frozen=True)
class Bucket:
    """The shape of a bucket.

    Attributes:
        limit: what a period may have, N.
        period_s: length of a period in seconds, T.
        capacity: what may be spent at once, b.
    """

    limit: float
    period_s: float
    capacity: float

    @property
    def refill_per_s(self) -> float:
        """What comes back in a second, r."""
        return (self.limit - self.capacity) / self.period_s

    @property
    def horizon_s(self) -> float:
        """Over so many seconds a level above the kept share is spent."""
        return self.period_s / HORIZONS

    def after(self, level: float, elapsed_s: float) -> float:
        """The level after a time in which nothing was spent; a time below 0 changes nothing."""
        return min(self.capacity, level + self.refill_per_s * max(0.0, elapsed_s))

    def affordable_share(self, level: float, demand_per_s: float) -> float:
        """The share of the demand that can be met so that the level goes towards the kept share.

        Args:
            level: of the bucket.
            demand_per_s: what all hand-offs would cost in a second.

        Returns:
            In [0, 1].
        """
        spare = (level - KEPT_SHARE * self.capacity) / self.horizon_s
        if demand_per_s <= 0:
            return 1.0
        spent_per_s = max(LEAST_SPENT_SHARE * self.refill_per_s, self.refill_per_s + spare)
        return min(1.0, spent_per_s / demand_per_s)


def bucket(limit: float, period_s: float, burst: float, dearest: float) -> Bucket:
    """A bucket for a budget.

    Args:
        limit: what a period may have.
        period_s: length of a period in seconds.
        burst: share of the limit that may be spent at once.
        dearest: the most that one call costs, for which there is always room; at most half of the limit.
    """
    return Bucket(limit, period_s, max(burst * limit, dearest))


@dataclass
class Demand:
    """What the hand-offs would cost in a second, averaged over a horizon with exponentially falling weights.

    Attributes:
        horizon_s: time constant in seconds.
        weight: sum of the costs by their weights.
        at: monotonic time of the last change, in seconds.
    """

    horizon_s: float
    weight: float
    at: float

    def add(self, cost: float, now: float) -> None:
        """A hand-off would cost so much."""
        self.weight = self.weight_at(now) + cost
        self.at = now

    def weight_at(self, now: float) -> float:
        """The weighted sum at a time."""
        return self.weight * math.exp(-max(0.0, now - self.at) / self.horizon_s)

    def per_s(self, now: float) -> float:
        """The average at a time; from below while there were few."""
        return self.weight_at(now) / self.horizon_s

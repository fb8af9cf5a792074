"""How delta is divided among the certificates that are issued on the same rows.

A certificate is wrong with probability at most its level, whatever earlier ones were; so all of them hold together with
probability 1 - delta while their levels sum to no more than delta (union bound).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Spending = Literal["looks", "nights", "single_use"]
MOST_LOOKS = 1000
MOST_USES = 10**5
# Levels are sums of floats.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Budget:
    """What one more certification on some rows may spend.

    Attributes:
        spending: how delta is divided.
        delta: one minus the confidence in all certificates on these rows together.
        looks: number of certifications that `looks` divides delta among.
        uses: earlier certifications on some of the same rows.
        before: the part of delta that they spent; None if each spent what this budget would have given it.
    """

    spending: Spending
    delta: float
    looks: int
    uses: int = 0
    before: float | None = None

    @property
    def level(self) -> float:
        """Level that the next certification is tested at.

        `looks` gives each an equal part. `nights` gives the t-th the part 6 / (pi t)^2; these sum to one.
        """
        match self.spending:
            case "looks":
                return self.delta / self.looks
            case "nights":
                return spent_on(self.delta, self.uses)
            case "single_use":
                return self.delta

    @property
    def spent(self) -> float:
        """The part of delta that earlier certifications spent; 0 where each is to hold only by itself."""
        if self.spending == "single_use":
            return 0.0
        if self.before is not None:
            return self.before
        if self.spending == "looks":
            return self.uses * self.level
        return math.fsum(spent_on(self.delta, earlier) for earlier in range(self.uses))

    @property
    def left(self) -> int | None:
        """How many certifications may still follow, the next among them; None if there is no last one."""
        if self.spending != "looks":
            return None if self.affordable else 0
        return max(0, math.floor((self.delta - self.spent) / self.level + ROUNDING))

    @property
    def affordable(self) -> bool:
        """The next certification can be paid for."""
        return self.spent + self.level <= self.delta * (1 + ROUNDING)


def spent_on(delta: float, earlier_uses: int) -> float:
    """The part of delta that `nights` gives to one more certification after so many."""
    return delta * 6 / (math.pi * (earlier_uses + 1)) ** 2

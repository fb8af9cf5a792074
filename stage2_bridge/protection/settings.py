"""Settings of what stands between the cascade and its Stage-2 servers."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stage1.settings import Section

Unit = Literal["calls", "money"]
SECONDS = {"hour": 3600.0, "day": 86400.0}
# Of fewer the bucket could not hold one call and win another one back.
FEWEST_CALLS = 2


class BudgetSettings(Section):
    """How much Stage-2 may be asked. One of `calls` and `money` is given; 0 leaves all to Stage-1.

    Attributes:
        calls: calls to servers in a period.
        money: what they may cost in a period, in the unit of the servers' prices.
        per: the period. No period of this length, whenever it begins, has more than the budget.
        burst: share of it that may be spent at once; what is left comes back evenly over the period.
    """

    calls: int | None = Field(default=None, ge=0)
    money: float | None = Field(default=None, ge=0)
    per: Literal["hour", "day"] = "day"
    burst: float = Field(default=0.1, gt=0, le=0.5)

    @property
    def limit(self) -> float:
        """Calls or money of a period."""
        return float(self.calls if self.calls is not None else self.money or 0.0)

    @property
    def unit(self) -> Unit:
        """What it counts."""
        return "money" if self.calls is None else "calls"

    @property
    def period_s(self) -> float:
        """Length of the period."""
        return SECONDS[self.per]

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        if (self.calls is None) == (self.money is None):
            raise ValueError("a budget is of calls or of money: give one of the two, 0 for Stage-1 alone")
        if self.calls is not None and 0 < self.calls < FEWEST_CALLS:
            raise ValueError(f"calls: give at least {FEWEST_CALLS}, or 0 for Stage-1 alone")
        return self


class CacheSettings(Section):
    """Verdicts that are used again for the same bytes.

    Attributes:
        window_s: how long a verdict is used for the same bytes; `0` for never.
        entries: most verdicts that are kept.
    """

    window_s: float = Field(default=300.0, ge=0, le=86400)
    entries: int = Field(default=4096, ge=1, le=1_000_000)


class HedgeSettings(Section):
    """A second server is asked where the first takes longer than most answers do.

    Attributes:
        enabled: ask a second server for what takes long.
        quantile: share of the quickest server's answers that take no longer than is waited before a second
            server is asked.
        most_share: share of the hand-offs for which a second server is asked at most.
    """

    enabled: bool = False
    quantile: float = Field(default=0.95, ge=0.5, lt=1)
    most_share: float = Field(default=0.1, gt=0, le=1)

"""A number of some rows with its group-bootstrap interval, as reports and records hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.metrics.bootstrap import Groups, Statistic, bootstrap, interval

LEVEL = 0.95


class Estimate(BaseModel):
    """A number with its 95% group-bootstrap interval.

    Attributes:
        value: on the rows as they are; None if it is not defined.
        lower: lower end; None without an interval.
        upper: upper end; None without an interval.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    lower: float | None = None
    upper: float | None = None

    @classmethod
    def of(cls, value: float, samples: NDArray[np.float64] | None = None) -> Self:
        """An estimate of a number that may be NaN.

        Args:
            value: on the rows as they are.
            samples: the number in every replicate, `(repetitions,)`; None for no interval.
        """
        if samples is None:
            return cls(value=_defined(value))
        ends = interval(samples, LEVEL)
        return cls(value=_defined(value), lower=_defined(ends.lower), upper=_defined(ends.upper))

    def in_words(self, form: str) -> str:
        """The number with its interval behind it.

        Args:
            form: how each number is written, for example `.1%`.
        """
        if self.value is None:
            return "not defined"
        ends = "" if self.lower is None or self.upper is None else f" [{self.lower:{form}}, {self.upper:{form}}]"
        return f"{self.value:{form}}{ends}"


def estimates(
    statistics: Mapping[str, Statistic], groups: Groups, repetitions: int, rng: np.random.Generator
) -> dict[str, Estimate]:
    """Several numbers of the same rows, all under the same replicates.

    Args:
        statistics: each from a weight for each row, `(N,)`, to one number; NaN where it is not defined.
        groups: see `stage1.metrics.bootstrap.group_weights`.
        repetitions: replicates; 0 for no intervals.
        rng: source of the draws.
    """

    def together(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([float(one(weights)) for one in statistics.values()])  # type: ignore[arg-type]

    values = together(np.ones(len(groups)))
    samples = bootstrap(together, groups, repetitions, rng) if repetitions else None
    return {
        name: Estimate.of(float(values[place]), None if samples is None else samples[:, place])
        for place, name in enumerate(statistics)
    }


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

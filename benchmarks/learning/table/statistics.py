"""Numbers of ranked rows under weights, their intervals, and tables of them as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage1.metrics.bootstrap import interval

Doubles = NDArray[np.float64]
# Of a standard normal: what 80% and 97.5% of it lie below.
POWER_QUANTILE, TWO_SIDED_QUANTILE = 0.8416, 1.9600


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval.

    Attributes:
        value: on the rows as they are.
        lower: lower end.
        upper: upper end.
        visible: the smallest true difference of which such an interval excludes 0 in 80% of the experiments.
    """

    value: float
    lower: float
    upper: float
    visible: float

    @property
    def sign(self) -> int:
        """1 or -1 if the interval excludes 0, else 0."""
        return int(self.lower > 0) - int(self.upper < 0)


def estimate(value: float, samples: Doubles) -> Estimate:
    """A number and the spread of its replicates, `(repetitions,)`; NaN where it is not defined."""
    ends = interval(samples)
    defined = samples[~np.isnan(samples)]
    spread = float(defined.std()) if len(defined) else float("nan")
    return Estimate(value, ends.lower, ends.upper, (TWO_SIDED_QUANTILE + POWER_QUANTILE) * spread)


def auc(labels: NDArray[np.integer], scores: NDArray[np.floating], weights: Doubles | None = None) -> float:
    """Weighted area under the ROC curve, ties counted half; NaN where a class has no weight.

    Args:
        labels: 0 or 1, `(N,)`.
        scores: larger means more likely 1, `(N,)`.
        weights: of the rows, `(N,)`; None for ones.

    References:
        Hanley and McNeil (1982), The meaning and use of the area under a ROC curve, Radiology 143.
    """
    given = np.ones(len(labels)) if weights is None else weights
    values, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, given * (labels == 1), len(values))
    negative = np.bincount(place, given * (labels == 0), len(values))
    below = np.cumsum(negative) - negative / 2
    pairs = positive.sum() * negative.sum()
    return float(positive @ below / pairs) if pairs else float("nan")


def pairs_in_groups(
    labels: NDArray[np.integer], scores: NDArray[np.floating], groups: Sequence[str] | NDArray[np.str_]
) -> tuple[Doubles, Doubles]:
    """Pairs of both classes in a group that are in order, and all of them, each at one row of the group, `(N,)`.

    Their sums under weights of groups are an area under the ROC curve that shifts between groups cannot move.
    """
    right, pairs = np.zeros(len(labels)), np.zeros(len(labels))
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    for code in range(len(names)):
        here = np.flatnonzero(codes == code)
        count = float((labels[here] == 0).sum() * (labels[here] == 1).sum())
        if count:
            pairs[here[0]], right[here[0]] = count, count * auc(labels[here], scores[here])
    return right, pairs


def cell(found: Estimate, digits: int = 3, *, signed: bool = False) -> str:
    """A number with its interval as text."""
    sign = "+" if signed else ""
    value, lower, upper = (f"{number:{sign}.{digits}f}" for number in (found.value, found.lower, found.upper))
    return f"{value} [{lower}, {upper}]"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the head, as text that is also markdown."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)

"""How well probabilities agree with frequencies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage1.metrics.risk_coverage import Column, Doubles

LEAST_PROBABILITY = 1e-12


@dataclass(frozen=True, eq=False)
class Reliability:
    """What was foretold and what came, in the bins that have any rows.

    Attributes:
        probability: mean probability of each bin, rising, float64 `(B,)`.
        observed: share of label 1 among its rows, float64 `(B,)`.
        count: its rows, `(B,)`.
    """

    probability: Doubles
    observed: Doubles
    count: NDArray[np.intp]


def reliability(probability: Column, labels: Column, bins: int = 10, *, equal_mass: bool = False) -> Reliability:
    """Sort rows into bins by probability; rows of one probability share a bin.

    Args:
        probability: probability of label 1, `(N,)`.
        labels: 0 or 1, `(N,)`.
        bins: the most bins there can be.
        equal_mass: bins of as nearly equal counts as ties allow, in place of equal width.

    Raises:
        ValueError: there are no rows, the lengths differ, or a probability or label is out of range.
    """
    foretold, came = _foretold(probability, labels)
    edges = np.linspace(0, 1, bins + 1)
    inner = (np.quantile(foretold, edges) if equal_mass else edges)[1:-1]
    index = np.searchsorted(inner, foretold, side="right")
    count = np.bincount(index, minlength=bins)
    used = count > 0
    sums = [np.bincount(index, values, minlength=bins)[used] / count[used] for values in (foretold, came)]
    return Reliability(sums[0], sums[1], count[used])


def expected_calibration_error(
    probability: Column, labels: Column, bins: int = 10, *, equal_mass: bool = False
) -> float:
    """Mean distance between what was foretold and what came, over the rows; see `reliability`."""
    found = reliability(probability, labels, bins, equal_mass=equal_mass)
    return float(np.abs(found.probability - found.observed) @ found.count / found.count.sum())


def brier(probability: Column, labels: Column) -> float:
    """Mean squared distance between the probability of label 1 and the label; see `reliability`."""
    foretold, came = _foretold(probability, labels)
    return float(np.mean((foretold - came) ** 2))


def negative_log_likelihood(probability: Column, labels: Column) -> float:
    """Mean of -ln of the probability given to what came, of at least 1e-12; see `reliability`."""
    foretold, came = _foretold(probability, labels)
    return float(-np.mean(np.log(np.maximum(np.where(came == 1, foretold, 1 - foretold), LEAST_PROBABILITY))))


def _foretold(probability: Column, labels: Column) -> tuple[Doubles, Doubles]:
    """Probabilities and labels in float64, or a ValueError."""
    foretold, came = np.asarray(probability, np.float64), np.asarray(labels, np.float64)
    if foretold.ndim != 1 or foretold.shape != came.shape or not len(came):
        raise ValueError(f"probability {foretold.shape} and labels {came.shape} must be two vectors of N > 0 rows")
    inside = (foretold >= 0) & (foretold <= 1)
    if not inside.all():
        raise ValueError(f"{np.sum(~inside)} of {len(inside)} probabilities are not in [0, 1]")
    known = (came == 0) | (came == 1)
    if not known.all():
        raise ValueError(f"{np.sum(~known)} of {len(known)} labels are neither 0 nor 1")
    return foretold, came

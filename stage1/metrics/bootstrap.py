"""Uncertainty of a statistic by drawing whole groups again: frames of one drive are not independent.

A replicate is a weight for each row, how often its group was drawn, so a statistic sorts its rows once and not once for
each replicate. Two models are compared under the same weights, which takes out what a drive does to both.

References:
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 8 and 13.
    Field and Welsh (2007), Bootstrapping clustered data, https://doi.org/10.1111/j.1467-9868.2007.00593.x
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stage1.metrics.risk_coverage import Ranking

Doubles = NDArray[np.float64]
Groups = Sequence[str] | NDArray[np.generic]
Statistic = Callable[[Doubles], ArrayLike]
"""From a weight for each row, float64 `(N,)`, to one number or K of them; NaN where it is not defined."""


@dataclass(frozen=True)
class Interval:
    """Percentile interval of one number.

    Attributes:
        lower: lower end; NaN if the number is defined in no replicate.
        upper: upper end, likewise.
        undefined: replicates left out because the number is not defined in them.
    """

    lower: float
    upper: float
    undefined: int


@dataclass(frozen=True)
class Difference:
    """Difference of two statistics of the same rows.

    Attributes:
        estimate: the difference on the rows as they are.
        lower: one-sided lower bound: with confidence `level`, the difference is above it.
        interval: two-sided interval at the same level.
    """

    estimate: float
    lower: float
    interval: Interval


@dataclass(frozen=True, eq=False)
class CurveBand:
    """Pointwise band around a risk-coverage curve, float64 `(C,)` each.

    Attributes:
        coverage: where it is evaluated.
        selective_lower: lower end for the selective risk.
        selective_upper: upper end for the selective risk.
        generalized_lower: lower end for the generalised risk.
        generalized_upper: upper end for the generalised risk.
    """

    coverage: Doubles
    selective_lower: Doubles
    selective_upper: Doubles
    generalized_lower: Doubles
    generalized_upper: Doubles


def group_weights(groups: Groups, repetitions: int, rng: np.random.Generator) -> Iterator[Doubles]:
    """Weights of each replicate, one at a time: as many groups as there are, drawn with replacement.

    Args:
        groups: group of each row, `(N,)`; every row its own group is the bootstrap of rows.
        repetitions: replicates.
        rng: source of the draws.

    Yields:
        How often the group of each row was drawn, float64 `(N,)`.

    Raises:
        ValueError: there are no rows.
    """
    if not len(groups):
        raise ValueError("no rows to draw from")
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    for _ in range(repetitions):
        drawn = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
        yield drawn.astype(np.float64)[group_of_row]


def bootstrap(statistics: Statistic, groups: Groups, repetitions: int, rng: np.random.Generator) -> Doubles:
    """The statistics of every replicate, float64 `(repetitions, K)`.

    Args:
        statistics: for instance `Ranking.augrc`, or a `rate`.
        groups: see `group_weights`.
        repetitions: replicates, at least 1.
        rng: source of the draws.
    """
    return np.stack(
        [np.atleast_1d(np.asarray(statistics(w), np.float64)) for w in group_weights(groups, repetitions, rng)]
    )


def rate(condition: NDArray[np.bool_], loss: NDArray[np.bool_]) -> Statistic:
    """The share of `loss` among the rows of `condition` as a statistic, NaN where none of them was drawn."""
    trials, events = condition.astype(np.float64), (condition & loss).astype(np.float64)

    def share(weights: Doubles) -> float:
        among = float(weights @ trials)
        return float(weights @ events) / among if among else np.nan

    return share


def interval(samples: Doubles, level: float = 0.95) -> Interval:
    """Percentile interval with as much left out below as above.

    Args:
        samples: one statistic in every replicate, `(repetitions,)`.
        level: nominal coverage, in (0, 1).
    """
    defined = samples[~np.isnan(samples)]
    tail = (1 - level) / 2
    lower, upper = np.quantile(defined, [tail, 1 - tail]) if len(defined) else (np.nan, np.nan)
    return Interval(float(lower), float(upper), len(samples) - len(defined))


def paired_difference(
    ours: Statistic,
    theirs: Statistic,
    groups: Groups,
    repetitions: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> Difference:
    """`ours` minus `theirs`, both under the same weights.

    Args:
        ours: a statistic of one number.
        theirs: a statistic of one number, of the same rows.
        groups: see `group_weights`.
        repetitions: replicates, at least 1.
        rng: source of the draws.
        level: confidence of the bound, and of the interval.
    """

    def difference(weights: Doubles) -> Doubles:
        return np.asarray(ours(weights), np.float64) - np.asarray(theirs(weights), np.float64)

    samples = bootstrap(difference, groups, repetitions, rng)[:, 0]
    # What lies above the lower end of an interval with twice the tails.
    one_sided = interval(samples, 2 * level - 1).lower
    return Difference(float(difference(np.ones(len(groups)))), one_sided, interval(samples, level))


def curve_band(
    ranking: Ranking,
    groups: Groups,
    coverage: Doubles,
    repetitions: int,
    rng: np.random.Generator,
    level: float = 0.95,
) -> CurveBand:
    """Band around the risk-coverage curve of a ranking, at each coverage by itself.

    Args:
        ranking: the ranking.
        groups: group of each row that it was made of, `(N,)`.
        coverage: where to evaluate, in (0, 1], `(C,)`.
        repetitions: replicates, at least 1.
        rng: source of the draws.
        level: nominal coverage of the band at one point, in (0, 1).
    """
    samples = bootstrap(lambda weights: _risks_at(ranking, weights, coverage), groups, repetitions, rng)
    tail = (1 - level) / 2
    lower, upper = np.quantile(samples, [tail, 1 - tail], axis=0)
    points = len(coverage)
    return CurveBand(coverage, lower[:points], upper[:points], lower[points:], upper[points:])


def _risks_at(ranking: Ranking, weights: Doubles, coverage: Doubles) -> Doubles:
    """Selective, then generalised risk at each coverage, `(2 C,)`."""
    curve = ranking.curve(weights)
    known = np.append(0.0, curve.coverage)
    selective = np.interp(coverage, known, np.append(curve.selective_risk[0], curve.selective_risk))
    return np.append(selective, np.interp(coverage, known, np.append(0.0, curve.generalized_risk)))

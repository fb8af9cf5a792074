"""Means over seeds with intervals that draw groups of the test rows and seeds again, the same ones for all methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.exits import Answered
from benchmarks.learning.scale import LOOSE, STRICT
from stage1.metrics.bootstrap import group_weights, interval
from stage1.metrics.classification import weighted_mcc
from stage1.metrics.risk_coverage import Ranking

Doubles = NDArray[np.float64]
METRICS = ("augrc", "mcc", "strict", "loose", "uncertified")


@dataclass(frozen=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Resampled:
    """Every metric of every method.

    Attributes:
        plain: of the rows as they are, `(seeds, K)` by method.
        drawn: of the replicates, `(seeds, repetitions, K)` by method.
        seeds: seeds of each replicate, `(repetitions, seeds)`.
    """

    plain: Mapping[str, Doubles]
    drawn: Mapping[str, Doubles]
    seeds: NDArray[np.int64]

    def estimate(self, name: str, metric: str) -> Estimate:
        """Mean of a metric over the seeds of a method."""
        column = METRICS.index(metric)
        return _estimate(float(self.plain[name][:, column].mean()), self._pooled(name, column))

    def difference(self, ours: str, theirs: str, metric: str) -> Estimate:
        """Mean of a metric over the seeds of a method less that of another, under the same draws."""
        column = METRICS.index(metric)
        value = float((self.plain[ours] - self.plain[theirs])[:, column].mean())
        return _estimate(value, self._pooled(ours, column) - self._pooled(theirs, column))

    def _pooled(self, name: str, column: int) -> Doubles:
        each = self.drawn[name][self.seeds, np.arange(len(self.seeds))[:, None], column]
        mean: Doubles = each.mean(axis=1)
        return mean


def _estimate(value: float, samples: Doubles) -> Estimate:
    ends = interval(samples)
    return Estimate(value, ends.lower, ends.upper)


def resample(answers: Mapping[str, Sequence[Answered]], repetitions: int) -> Resampled:
    """Draw groups and seeds again.

    Args:
        answers: of each method, one for each seed, for the same test rows.
        repetitions: replicates.
    """
    first = next(iter(answers.values()))
    rng = np.random.default_rng(0)
    weights = list(group_weights(first[0].test.groups, repetitions, rng))
    seeds = rng.integers(len(first), size=(repetitions, len(first)))
    one = np.ones(len(first[0].test))
    metrics = {name: [_Metrics(answer) for answer in found] for name, found in answers.items()}
    return Resampled(
        plain={name: np.stack([of(one) for of in found]) for name, found in metrics.items()},
        drawn={name: np.stack([[of(w) for w in weights] for of in found]) for name, found in metrics.items()},
        seeds=seeds,
    )


class _Metrics:
    """The metrics of one network, for any weights of the rows."""

    def __init__(self, answer: Answered) -> None:
        self._labels = answer.test.labels
        self._predictions = (answer.test.outputs.roadwork_score > 0).astype(np.int8)
        self._ranking = Ranking.of(answer.confidence, (self._predictions != self._labels).astype(np.float64))
        every = (answer.exits[STRICT], answer.exits[LOOSE], answer.uncertified)
        self._exits = np.stack([exits.labels >= 0 for exits in every]).astype(np.float64)

    def __call__(self, weights: Doubles) -> Doubles:
        shares = self._exits @ weights / weights.sum()
        return np.array([self._ranking.augrc(weights), weighted_mcc(self._labels, self._predictions, weights), *shares])

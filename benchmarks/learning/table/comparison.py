"""Means over seeds with intervals that draw groups and seeds again, the same ones for both rows of a difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.learning.table.exits import LEVELS, Answered, answered
from benchmarks.learning.table.statistics import Doubles, Estimate, auc, estimate, pairs_in_groups
from benchmarks.learning.units.results import UnitResult
from stage1.metrics.bootstrap import group_weights
from stage1.metrics.classification import weighted_mcc
from stage1.metrics.risk_coverage import Ranking

REPETITIONS = 1000
EXITS = tuple(f"exits at {level:.0%}" for level in LEVELS)
METRICS = ("AUGRC", "MCC", "AUC", "AUC in a group", *EXITS)
LOWER_IS_BETTER = {"AUGRC"}

ByUnit = Mapping[tuple[int, int], UnitResult]
"""Results of a row by fold and seed."""


@dataclass(frozen=True)
class Compared:
    """The metrics of some rows, or their differences from another one.

    Attributes:
        metrics: by name, each with its interval.
        units: trainings that they rest on.
        seeds: seeds among them.
    """

    metrics: Mapping[str, Estimate]
    units: int
    seeds: int


def alone(row: ByUnit, repetitions: int = REPETITIONS) -> Compared:
    """The metrics of a row on all units that there are."""
    answers = _answers(row, set(row))
    plain, drawn = _resampled(answers, repetitions)
    return _compared(plain, drawn, len(row), len(answers))


def difference(row: ByUnit, other: ByUnit, repetitions: int = REPETITIONS) -> Compared | None:
    """One row less another on the folds and seeds that both have, None if there are none."""
    both = set(row) & set(other)
    if not both:
        return None
    ours, theirs = (_resampled(_answers(each, both), repetitions) for each in (row, other))
    return _compared(ours[0] - theirs[0], ours[1] - theirs[1], len(both), len({seed for _, seed in both}))


def answers_of(row: ByUnit) -> dict[int, Answered]:
    """What the networks of a row say, by seed."""
    return _answers(row, set(row))


def _answers(row: ByUnit, units: set[tuple[int, int]]) -> dict[int, Answered]:
    seeds = sorted({seed for _, seed in units})
    return {seed: answered({fold: row[fold, of] for fold, of in sorted(units) if of == seed}) for seed in seeds}


def _compared(plain: Doubles, drawn: Doubles, units: int, seeds: int) -> Compared:
    metrics = {name: estimate(float(plain[i]), drawn[:, i]) for i, name in enumerate(METRICS)}
    return Compared(metrics, units, seeds)


def _resampled(answers: Mapping[int, Answered], repetitions: int) -> tuple[Doubles, Doubles]:
    """Metrics `(K,)` as mean over seeds, and of replicates `(repetitions, K)`.

    The draws depend on names of groups and on numbers of seeds alone, so two rows with the same ones share them.
    """
    rng = np.random.default_rng(0)
    groups = sorted({group for each in answers.values() for group in each.data.groups})
    counts = list(group_weights(groups, repetitions, rng))
    seeds = rng.integers(len(answers), size=(repetitions, len(answers)))
    metrics = [_Metrics(each) for each in answers.values()]
    plain = np.mean([of(np.ones(len(of))) for of in metrics], axis=0)
    places = [np.searchsorted(groups, np.asarray(each.data.groups)) for each in answers.values()]
    each_seed = np.stack([[of(count[place]) for count in counts] for of, place in zip(metrics, places, strict=True)])
    drawn = each_seed[seeds, np.arange(repetitions)[:, None]].mean(axis=1)
    return plain, drawn


class _Metrics:
    """The metrics of the networks of one seed, for any weights of their rows."""

    def __init__(self, found: Answered) -> None:
        self._score = found.data.outputs.roadwork_score
        self._labels = found.data.labels
        self._said: NDArray[np.int8] = (self._score > 0).astype(np.int8)
        self._ranking = Ranking.of(found.data.outputs.select_score, (self._said != self._labels).astype(np.float64))
        self._right, self._pairs = pairs_in_groups(self._labels, self._score, found.data.groups)
        nobody = np.full(len(self._labels), np.nan)
        self._exits = np.stack(
            [(found.exits[level] >= 0).astype(np.float64) if found.exits else nobody for level in LEVELS]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __call__(self, weights: Doubles) -> Doubles:
        mcc = weighted_mcc(self._labels, self._said, weights)
        shares = self._exits @ weights / weights.sum()
        pairs = weights @ self._pairs
        inside = weights @ self._right / pairs if pairs else np.nan
        everywhere = auc(self._labels, self._score, weights)
        return np.array([self._ranking.augrc(weights), mcc, everywhere, inside, *shares])

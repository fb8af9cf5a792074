"""How well a confidence tells right answers from wrong ones.

Rows are answered from the most confident down, and rows of one confidence enter together, so the order of rows never
matters. Losses are in [0, 1]; for a classifier 1 is an error. Curves are joined by straight lines; the generalised risk
starts at (0, 0), the selective risk is extended to coverage 0 by its first value.

References:
    Traub et al. (2024), Overcoming common flaws in the evaluation of selective classification, arXiv 2407.01032.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from stage1.decisions import Decisions

Column = NDArray[np.generic]
"""Real numbers, or booleans for 0 and 1, one a row, `(N,)`."""
Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RiskCoverage:
    """Risk at every working point: one entry for each distinct confidence, coverage rising.

    Attributes:
        coverage: share of rows answered, in (0, 1], float64 `(M,)`.
        selective_risk: mean loss among the answered, float64 `(M,)`.
        generalized_risk: mean over all rows of the loss of the answered, float64 `(M,)`.
    """

    coverage: Doubles
    selective_risk: Doubles
    generalized_risk: Doubles


@dataclass(frozen=True, eq=False)
class Ranking:
    """Rows sorted once by confidence; every resampling of them is a weight for each row.

    Attributes:
        order: rows from the most confident down, `(N,)`.
        starts: where in `order` each distinct confidence begins, `(M,)`.
        losses: loss of each row, in that order, float64 `(N,)`.
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    losses: Doubles

    @classmethod
    def of(cls, confidence: Column, losses: Column) -> Self:
        """Sort rows.

        Args:
            confidence: larger is answered earlier, `(N,)`.
            losses: loss of each row in [0, 1], `(N,)`.

        Raises:
            ValueError: there are no rows, the lengths differ, or a value is not finite or out of range.
        """
        confidence, checked = _checked(confidence, losses)
        order = np.argsort(confidence)[::-1]
        ranked = confidence[order]
        starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
        return cls(order, starts, checked[order].astype(np.float64))

    def __len__(self) -> int:
        return len(self.order)

    def curve(self, weights: Column | None = None) -> RiskCoverage:
        """Risk against coverage; a confidence all of whose rows weigh nothing is no working point.

        Args:
            weights: weight of each row, nonnegative, in the order in which the rows were given, `(N,)`.
        """
        mass, lost = self._tied(weights)
        weighs = mass > 0
        answered, failed = np.cumsum(mass[weighs]), np.cumsum(lost[weighs])
        total = answered[-1:]
        return RiskCoverage(answered / total, failed / answered, failed / total)

    def augrc(self, weights: Column | None = None) -> float:
        """Area under the generalised risk, in [0, 1/2]; NaN if nothing weighs anything.

        Args:
            weights: see `curve`.
        """
        mass, lost = self._tied(weights)
        answered = np.cumsum(mass)
        total = answered[-1]
        # A loss counts at every coverage from its own on, and half of the way through its tie.
        return float(lost @ (total - answered + mass / 2) / total**2) if total > 0 else np.nan

    def aurc(self, weights: Column | None = None) -> float:
        """Area under the selective risk, in [0, 1]; NaN if nothing weighs anything.

        Args:
            weights: see `curve`.
        """
        curve = self.curve(weights)
        return _area(curve.coverage, curve.selective_risk)

    def _tied(self, weights: Column | None) -> tuple[Doubles, Doubles]:
        """Weight and weighted loss of each distinct confidence, float64 `(M,)` each."""
        if weights is None:
            mass = np.diff(self.starts, append=len(self)).astype(np.float64)
            return mass, self._summed(self.losses)
        if weights.shape != self.order.shape or not weights.min() >= 0:
            raise ValueError(f"weights must be {len(self)} nonnegative numbers, one for each row")
        weight = weights[self.order].astype(np.float64)
        return self._summed(weight), self._summed(weight * self.losses)

    def _summed(self, values: Doubles) -> Doubles:
        return values if len(self.starts) == len(values) else np.add.reduceat(values, self.starts)


def augrc(confidence: Column, losses: Column) -> float:
    """AUGRC: mean rate of silent failures over all working points, in [0, 1/2]; lower is better.

    It equals `Ranking.of(confidence, losses).augrc()`, and sorts the values of all rows but the rows of failures only.

    Args:
        confidence: larger is answered earlier, `(N,)`.
        losses: loss of each row in [0, 1], `(N,)`.

    Raises:
        ValueError: there are no rows, the lengths differ, or a value is not finite or out of range.
    """
    confidence, checked = _checked(confidence, losses)
    failed = np.flatnonzero(checked)
    twice_midrank = _twice_midrank(np.sort(confidence), confidence[failed])
    return float(checked[failed].astype(np.float64) @ twice_midrank) / 2 / len(checked) ** 2


def aurc(confidence: Column, losses: Column) -> float:
    """AURC: mean selective risk over all coverages, in [0, 1]; one confident error outweighs many late ones.

    Args:
        confidence: see `augrc`.
        losses: see `augrc`.
    """
    return Ranking.of(confidence, losses).aurc()


def excess_augrc(confidence: Column, losses: Column) -> float:
    """AUGRC above that of the same losses in the best order; for errors of accuracy a in [0, a(1 - a)].

    The best order of errors has AUGRC (1 - a)^2 / 2.

    Args:
        confidence: see `augrc`.
        losses: see `augrc`.
    """
    return augrc(confidence, losses) - augrc(-np.asarray(losses, np.float64), losses)


def excess_aurc(confidence: Column, losses: Column) -> float:
    """AURC above that of the same losses in the best order.

    For errors at rate e the best is e + (1 - e) ln(1 - e), of a curve that is not straight: with ties the difference
    can be negative. For other losses it is the AURC of the rows sorted by loss.

    Args:
        confidence: see `augrc`.
        losses: see `augrc`.
    """
    checked = _checked(confidence, losses)[1].astype(np.float64)
    rate = checked.mean()
    if np.all(checked == checked.astype(bool)):
        return float(aurc(confidence, losses) - (rate + xlogy(1 - rate, 1 - rate)))
    return aurc(confidence, losses) - aurc(-checked, losses)


def augrc_balanced(confidence: Column, losses: Column, labels: Column) -> float:
    """AUGRC where each of the K classes counts alike: a loss weighs N / (K times the rows of its class).

    Args:
        confidence: see `augrc`.
        losses: see `augrc`.
        labels: true class of each row, `(N,)`.
    """
    ranking = Ranking.of(confidence, losses)
    classes, index, size = _classes(labels, len(ranking))
    balanced = Ranking(
        ranking.order, ranking.starts, ranking.losses * (len(index) / (len(classes) * size[index]))[ranking.order]
    )
    return balanced.augrc()


def auroc_of_failures(confidence: Column, losses: Column) -> float:
    """Probability that a right answer is more confident than a wrong one, ties one half; NaN without both.

    Args:
        confidence: see `augrc`.
        losses: 0 or 1, `(N,)`.

    Raises:
        ValueError: see `augrc`, or a loss is neither 0 nor 1.
    """
    confidence, checked = _checked(confidence, losses)
    wrong = checked == 1
    between = np.count_nonzero(checked) - np.count_nonzero(wrong)
    if between:
        raise ValueError(f"{between} losses are neither 0 nor 1")
    failures = int(wrong.sum())
    pairs = failures * (len(wrong) - failures)
    return (
        float(1 - _twice_midrank(np.sort(confidence[~wrong]), confidence[wrong]).sum() / 2 / pairs) if pairs else np.nan
    )


def coverage_at_risk(curve: RiskCoverage, alpha: float) -> float:
    """The largest coverage whose selective risk is at most `alpha`; 0 if there is none."""
    return float(curve.coverage[curve.selective_risk <= alpha].max(initial=0.0))


def risk_at_coverage(curve: RiskCoverage, coverage: float) -> float:
    """Selective risk at the first working point that answers at least this share, NaN for a curve without points.

    Raises:
        ValueError: `coverage` is not in (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage is {coverage}, expected a number in (0, 1]")
    # A weighted coverage is a sum, and may fall short of the number that it stands for by rounding.
    reached = curve.selective_risk[curve.coverage >= coverage - 1e-12]
    return float(reached[0]) if len(reached) else np.nan


@dataclass(frozen=True, eq=False)
class MissRate:
    """Miss rate at every working point: one entry for each distinct confidence, coverage rising.

    Attributes:
        coverage: share of rows answered, in (0, 1], float64 `(M,)`.
        miss_rate: share of the answered positives that are answered 0, NaN where there are none, float64 `(M,)`.
        positives: answered positives, float64 `(M,)`.
    """

    coverage: Doubles
    miss_rate: Doubles
    positives: Doubles


def miss_rate_curve(labels: Column, predictions: Column, confidence: Column) -> MissRate:
    """Miss rate among answered positives against coverage.

    Args:
        labels: 0 or 1, `(N,)`.
        predictions: 0 or 1, `(N,)`.
        confidence: larger is answered earlier, `(N,)`.
    """
    positive = np.asarray(labels) == 1
    ranking = Ranking.of(confidence, positive & (np.asarray(predictions) == 0))
    mass, missed = ranking._tied(positive)  # noqa: SLF001  the same module
    positives = np.cumsum(mass)
    some = positives > 0
    rate = np.where(some, np.cumsum(missed) / np.where(some, positives, 1), np.nan)
    return MissRate(np.append(ranking.starts[1:], len(ranking)) / len(ranking), rate, positives)


def average_set_size(decisions: Decisions) -> float:
    """Mean size of the prediction sets: 1 for an exit, 2 for a deferral; NaN for no decisions."""
    return float(np.mean(np.where(decisions.exits, 1, 2))) if len(decisions) else np.nan


def _area(coverage: Doubles, risk: Doubles) -> float:
    """Area under a curve that is extended to coverage 0 by its first value; NaN for one without points."""
    return float(np.trapezoid(risk, coverage) + coverage[0] * risk[0]) if len(coverage) else np.nan


def _twice_midrank(ranked: Column, values: Column) -> NDArray[np.intp]:
    """Twice how many of `ranked` lie below each value, ties one half, `(K,)`."""
    # Searching for sorted values reads the memory forwards.
    order = np.argsort(values)
    sought = values[order]
    twice = np.empty(len(values), np.intp)
    twice[order] = np.searchsorted(ranked, sought) + np.searchsorted(ranked, sought, side="right")
    return twice


def _classes(labels: Column, rows: int) -> tuple[Column, NDArray[np.intp], NDArray[np.intp]]:
    """The classes that occur, the number of each row's class among them, and their sizes."""
    if len(labels) != rows:
        raise ValueError(f"{len(labels)} labels for {rows} rows")
    classes, index, size = np.unique(labels, return_inverse=True, return_counts=True)
    return classes, index, size


def _checked(confidence: Column, losses: Column) -> tuple[Column, Column]:
    """Both as arrays, or a ValueError."""
    confidence, checked = np.asarray(confidence), np.asarray(losses)
    if confidence.ndim != 1 or confidence.shape != checked.shape or not len(checked):
        raise ValueError(f"confidence {confidence.shape} and losses {checked.shape} must be two vectors of N > 0 rows")
    finite = np.isfinite(confidence)
    if not finite.all():
        raise ValueError(f"{np.sum(~finite)} of {len(finite)} confidences are NaN or infinite")
    # NaN fails both comparisons.
    if not (checked.min() >= 0 and checked.max() <= 1):
        values = checked.astype(np.float64)
        outside = np.sum(~((values >= 0) & (values <= 1)))
        raise ValueError(f"{outside} of {len(values)} losses are not in [0, 1]")
    return confidence, checked

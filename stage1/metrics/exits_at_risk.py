"""How much exits at equal risk: what two models are compared by, because neither chose the other's cut.

Each model is given the thresholds that would be its own if these rows were all there is: t1 as calibration sets it, and
the highest t0 at which the miss rate on exits (D2) is the one that is asked for. Only the order of the scores matters,
so a training that moves or stretches them gains and loses nothing by that, and scores before and after the calibration
of a probability give the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExitShares:
    """Rows sorted once by their roadwork score; every resampling of them is a weight for each row.

    Attributes:
        order: rows from the lowest score up, `(N,)`.
        cut: whether a threshold may lie below the row at each place, and above the last, bool `(N + 1,)`.
        positive: whether each row shows roadwork, in that order, bool `(N,)`.
        false_alarm_rate: share of the negatives that may exit as 1.
    """

    order: NDArray[np.intp]
    cut: NDArray[np.bool_]
    positive: NDArray[np.bool_]
    false_alarm_rate: float

    @classmethod
    def of(cls, score: NDArray[np.floating], labels: NDArray[np.integer], false_alarm_rate: float) -> Self:
        """Sort rows.

        Args:
            score: larger is likelier to show roadwork, `(N,)`.
            labels: 0 or 1, `(N,)`.
            false_alarm_rate: share of the negatives that may exit as 1; t1 is never below the cut with the highest
                balanced accuracy.

        Raises:
            ValueError: there are no rows, or the lengths differ.
        """
        if not len(score) or len(score) != len(labels):
            raise ValueError(f"{len(score)} scores of {len(labels)} labels: there must be as many, and at least one")
        order = np.argsort(score, kind="stable")
        ranked = score[order]
        cut = np.concatenate([[True], ranked[1:] != ranked[:-1], [True]])
        return cls(order, cut, labels[order] == 1, false_alarm_rate)

    def at(self, risks: Doubles, weights: Doubles | None = None) -> Doubles:
        """Share of the rows that exit at each miss rate on exits, `(R,)`; NaN where a class weighs nothing.

        Args:
            risks: in [0, 1), `(R,)`.
            weights: weight of each row, nonnegative, in the order in which the rows were given, `(N,)`.
        """
        weight = np.ones(len(self.order)) if weights is None else weights[self.order]
        missed = np.append(0.0, np.cumsum(weight * self.positive))
        cleared = np.append(0.0, np.cumsum(weight * ~self.positive))
        positives, negatives = missed[-1], cleared[-1]
        if not positives or not negatives:
            return np.full(len(risks), np.nan)
        cuts = np.flatnonzero(self.cut)
        missed, cleared = missed[cuts], cleared[cuts]
        few = negatives - cleared <= self.false_alarm_rate * negatives * (1 + 1e-12)
        t1 = max(int(np.argmax(few)), int(np.argmax(cleared / negatives - missed / positives)))
        hits = positives - missed[t1]
        # D2 = misses / (misses + hits), and misses grow with t0.
        allowed = risks / (1 - risks) * hits * (1 + 1e-12)
        t0 = np.searchsorted(missed[: t1 + 1], allowed, side="right") - 1
        exits = missed[t0] + cleared[t0] + hits + negatives - cleared[t1]
        shares: Doubles = exits / (positives + negatives)
        return shares

    def mean(self, risks: Doubles, weights: Doubles | None = None) -> float:
        """Mean of the shares at several miss rates, which is less noisy than that at any one of them.

        Args:
            risks: see `at`.
            weights: see `at`.
        """
        return float(self.at(risks, weights).mean())

"""A conformal test martingale on scores: whether pictures still come from where they came from. It knows no labels.

A score is ranked among all before it. As long as scores are exchangeable the ranks are uniform, and the simple jumper,
which bets that they are mostly small or mostly large and may change its mind, gains nothing. Scores are rounded to the
cells of a grid, so that all that were seen are a table of counts, and the ranks are exact for what is ranked.

References:
    Vovk, Gammerman, Shafer (2022), Algorithmic learning in a random world, 2nd edition, chapter 8.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from stage1.monitor.e_process import log_sum_exp

CELLS, FROM, TO = 512, -16.0, 16.0
JUMP = 0.01
SIDES = (-1.0, 0.0, 1.0)
# Of all scores, on the side to which they have moved.
MOVED_SHARE = 0.25


class ScoreMartingale:
    """The martingale and what it has seen.

    Args:
        counts: scores seen in each cell, `(512,)`; None at the beginning.
        logs: log wealth of the three bets.
    """

    def __init__(self, counts: list[int] | None = None, logs: tuple[float, ...] | None = None) -> None:
        self._counts: NDArray[np.int64] = np.zeros(CELLS, np.int64) if counts is None else np.array(counts, np.int64)
        self.logs = logs or (-math.log(3),) * 3

    @property
    def counts(self) -> list[int]:
        """Scores seen in each cell."""
        return [int(count) for count in self._counts]

    @property
    def seen(self) -> int:
        """How many scores it has seen."""
        return int(self._counts.sum())

    @property
    def log_wealth(self) -> float:
        """Log of the wealth; begins at 0, and reaches log(1 / d) with probability at most d while nothing changes."""
        return log_sum_exp(self.logs)

    def add(self, score: float, uniform: float) -> None:
        """Take one score.

        Args:
            score: roadwork score.
            uniform: a number in [0, 1) of its own, which breaks ties.
        """
        self._counts[_cell(score)] += 1
        p = self._rank(score, uniform)
        common = log_sum_exp(self.logs) + math.log(JUMP / 3)
        mixed = (log_sum_exp((log + math.log1p(-JUMP), common)) for log in self.logs)
        self.logs = tuple(log + math.log1p(side * (p - 0.5)) for log, side in zip(mixed, SIDES, strict=True))

    def leads(self, score: float) -> bool:
        """Whether a score is in the quarter of all to which scores have moved, by the bet that has gained most.

        Args:
            score: roadwork score.
        """
        side = SIDES[max(range(len(SIDES)), key=self.logs.__getitem__)]
        return bool(self.seen) and side * (self._rank(score, 0.5) - 0.5) > 0.5 - MOVED_SHARE

    def _rank(self, score: float, uniform: float) -> float:
        """Share of scores that are above, and of a part of those that are the same."""
        cell = _cell(score)
        return (int(self._counts[cell + 1 :].sum()) + uniform * int(self._counts[cell])) / self.seen


def _cell(score: float) -> int:
    return min(max(int((score - FROM) / (TO - FROM) * CELLS), 0), CELLS - 1)

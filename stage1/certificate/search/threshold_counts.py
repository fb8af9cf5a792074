"""Counts of a risk at every candidate t0 at once, from one sort instead of one pass a candidate.

While t0 grows with everything else fixed, a row enters the trials once and is lost from some value on. The row that
stands for a group is the first, in the order of the draw, that has entered; it changes only when a row earlier in that
order enters. So each row stands for its group on one interval of t0, and counts are differences of sorted ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stage1.certificate.risks import Onset, Units
from stage1.exit_rule import Mask
from stage1.outputs import Floats

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Counts:
    """Losses and trials at each of J values of t0, int64 `(J,)` each."""

    losses: Integers
    trials: Integers


def sweep(found: Onset, units: Units, grid: Floats, *, among: Mask | None = None) -> Counts:
    """Losses and trials at each value of a grid of t0, one row a group.

    Args:
        found: where each row begins to count.
        units: the independent units.
        grid: values of t0, none above t1, `(J,)`.
        among: rows that are counted at all, `(N,)`; None for all.
    """
    # A row that never enters can stand for nothing, whatever its group.
    entering = found.condition < np.inf
    rows = np.flatnonzero(entering if among is None else entering & among)
    enter, lost = found.condition[rows], found.loss[rows]
    if units.alone:
        return Counts(_below(np.maximum(enter, lost), grid), _below(enter, grid))
    rows, leave = _intervals(rows, enter, units)
    enter, lost = found.condition[rows], found.loss[rows]
    start = np.maximum(enter, lost)
    counted = start < leave
    trials = _below(enter, grid) - _below(leave, grid)
    return Counts(_below(start[counted], grid) - _below(leave[counted], grid), trials)


def _intervals(rows: NDArray[np.intp], enter: Floats, units: Units) -> tuple[NDArray[np.intp], Floats]:
    """Rows that stand for their group on some interval, and the value of t0 at which another takes over."""
    place = np.empty(len(units.order), np.intp)
    place[units.order] = np.arange(len(units.order))
    code = units.codes[rows].astype(np.int64)
    drawn = np.lexsort((place[rows], code))
    rows, enter, code = rows[drawn], enter[drawn], code[drawn]
    values, ranks = np.unique(enter, return_inverse=True)
    # A later group lies below every earlier one, so one running minimum serves all groups.
    stride = len(rows) + 1
    lifted = ranks - code * stride
    before = np.append(0, np.minimum.accumulate(lifted))[: len(rows)]
    first = np.append(True, code[1:] != code[:-1])[: len(rows)]
    stands = first | (lifted < before)
    leave = np.where(first, np.float32(np.inf), values[(before + code * stride) % stride])
    return rows[stands], leave[stands]


def _below(values: Floats, grid: Floats) -> Integers:
    """How many values lie strictly below each value of the grid."""
    return np.searchsorted(np.sort(values), grid, side="left").astype(np.int64)

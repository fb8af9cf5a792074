"""Whether trained heads replace those that they started from.

The start was the best of many epochs on some rows, so on these rows it looks better than it is, and every step that is
chosen on some rows looks better there as well. So the rows of val_select are split by group. One half chooses: the
checkpoint of supervised training, and the step of conformal risk training. The other half judges one pair, once: the
chosen heads replace the start only if the paired interval of what exits at equal risk lies above zero.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from offline.data.dataset import Dataset
from stage1.metrics.bootstrap import paired_difference
from stage1.metrics.exits_at_risk import ExitShares

CONFIDENCE = 0.95
REPETITIONS = 1000
# Miss rates at which exits are compared, as multiples of the one that is to be certified: a certificate ends below it,
# and single rates hang on a few rows.
AROUND = np.array([0.5, 0.75, 1.0, 1.5, 2.0])
LAXEST = 0.5


@dataclass(frozen=True)
class HeadGain:
    """What trained heads gain over those that they started from, on rows that chose neither.

    Attributes:
        value: difference of the mean shares that exit at miss rates around the one that is to be certified.
        lower: with 95 % confidence it is above this; NaN where a class is missing.
    """

    value: float
    lower: float

    @property
    def kept(self) -> bool:
        """The trained heads replace the others; one time in twenty if they are no better."""
        return self.lower > 0


def halves(labels: NDArray[np.integer], groups: Sequence[str], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows that choose and rows that judge, by group; groups with the same labels in them are dealt out in turns.

    The first of each kind chooses, so the rows that choose have both classes wherever the rows have them.

    Args:
        labels: 0 or 1, `(N,)`.
        groups: group of each row, `(N,)`.
        seed: of the order in which they are dealt.

    Returns:
        Places of the rows, ascending, together all of them.
    """
    present: dict[str, set[int]] = {}
    for group, label in zip(groups, labels.tolist(), strict=True):
        present.setdefault(group, set()).add(label)
    ordered = sorted(present, key=lambda group: hashlib.blake2b(f"{seed}\0{group}".encode()).digest())
    judges = {
        group for kind in ({1}, {0}, {0, 1}) for group in [name for name in ordered if present[name] == kind][1::2]
    }
    judge = np.asarray([group in judges for group in groups], bool)
    return np.flatnonzero(~judge), np.flatnonzero(judge)


def choosing(val_select: Dataset, seed: int) -> Dataset:
    """The rows of val_select that choose; the others judge, and so may choose nothing that is judged.

    Args:
        val_select: all of them.
        seed: see `halves`.
    """
    choose, _ = halves(val_select.labels, val_select.groups, seed)
    return val_select.pick([val_select.ids[row] for row in choose.tolist()])


def rates_around(alpha: float) -> NDArray[np.float64]:
    """Miss rates around the one that is to be certified, `(R,)`."""
    rates: NDArray[np.float64] = np.minimum(AROUND * alpha, LAXEST)
    return rates


def head_gain(before: ExitShares, after: ExitShares, groups: Sequence[str], *, alpha: float, seed: int) -> HeadGain:
    """The gain of trained heads on the rows that judge.

    Args:
        before: what the heads that it started from say of these rows.
        after: what the trained heads say of the same rows.
        groups: group of each row, `(N,)`.
        alpha: miss rate that is to be certified.
        seed: of the bootstrap.
    """
    rng, ours, theirs = np.random.default_rng(seed), *(partial(s.mean, rates_around(alpha)) for s in (after, before))
    found = paired_difference(ours, theirs, groups, REPETITIONS, rng, CONFIDENCE)
    return HeadGain(found.estimate, found.lower)

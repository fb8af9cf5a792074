"""Folds of rows by group, each with its share of both classes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def group_folds(groups: Sequence[str], labels: NDArray[np.integer], folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of each row, `(N,)`, in 0..folds-1; a group is whole in one.

    The largest groups are placed first, ties in an order that the seed draws; each goes where there are the fewest rows
    of what it holds.

    Args:
        groups: of the rows, `(N,)`.
        labels: 0 or 1, `(N,)`.
        folds: how many.
        seed: of the order of ties.
    """
    names, group_of_row = np.unique(np.asarray(groups), return_inverse=True)
    holds = np.stack([np.bincount(group_of_row, weights=labels == label, minlength=len(names)) for label in (0, 1)], 1)
    share = holds / np.maximum(1, holds.sum(0))
    ties = [hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest() for name in names]
    placed, filled = np.empty(len(names), np.intp), np.zeros((folds, 2))
    for group in sorted(range(len(names)), key=lambda at: (-holds[at].sum(), ties[at])):
        placed[group] = np.argmin(filled @ holds[group] + 1e-9 * filled.sum(1))
        filled[placed[group]] += share[group]
    return placed[group_of_row]

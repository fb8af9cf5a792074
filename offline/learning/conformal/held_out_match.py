"""How often to draw each row that trains, so that their scores spread as those of rows that nothing was fitted to.

The adapter was fitted to the rows that train, so their roadwork scores are too good, and a threshold inside a loss on
them is another than calibration will find. Scores of a second adapter, fitted to other rows, would be honest, but its
features are not those that the heads are to see; and rows that are held back from the adapter cost it more than heads
can win back (measured: 2.5 points of exits for a fifth of the rows). So the rows stay, and are drawn by how common a
score like theirs is among held-out rows of their class. Where the scores of both spread alike there is nothing to mend,
and unequal draws would only add noise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

BINS = 10
# A row counts for no more than so many, or one that scores unlike all others would be a batch by itself.
MOST = 10.0
# How sure it must be that the scores spread differently.
ALIKE = 0.01


def matched_shares(
    score: NDArray[np.floating],
    labels: NDArray[np.integer],
    held_score: NDArray[np.floating],
    held_labels: NDArray[np.integer],
) -> NDArray[np.float64] | None:
    """Share with which each row is drawn, `(N,)`, adding up to one; each class keeps its own share of the rows.

    None where no class is seen to spread differently, by the test of Kolmogorov and Smirnov.

    Args:
        score: roadwork scores of the rows that train, `(N,)`.
        labels: 0 or 1, `(N,)`.
        held_score: roadwork scores of held-out rows, `(M,)`.
        held_labels: 0 or 1, `(M,)`.
    """
    shares, alike = np.ones(len(score)), True
    for label in (0, 1):
        mine, theirs = labels == label, held_score[held_labels == label]
        if not mine.any() or not len(theirs) or ks_2samp(score[mine], theirs).pvalue > ALIKE:
            continue
        alike = False
        edges = np.quantile(theirs, np.linspace(0, 1, BINS + 1)[1:-1])
        at = np.searchsorted(edges, score[mine])
        there = np.bincount(np.searchsorted(edges, theirs), minlength=BINS) / len(theirs)
        here = np.bincount(at, minlength=BINS) / len(at)
        ratio = np.clip(there / np.maximum(here, 1 / len(at)), 1 / MOST, MOST)[at]
        shares[mine] = ratio / ratio.mean()
    drawn: NDArray[np.float64] = shares / shares.sum()
    return None if alike else drawn

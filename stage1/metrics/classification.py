"""Metrics of answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def accuracy(labels: NDArray[np.integer], predictions: NDArray[np.integer]) -> float:
    """Share of equal entries; 0 for no entries."""
    return float(np.mean(labels == predictions)) if len(labels) else 0.0


def matthews_correlation(labels: NDArray[np.integer], predictions: NDArray[np.integer]) -> float:
    """Matthews correlation coefficient of two 0/1 vectors; 0 where either has a single class."""
    if len(labels) == 0 or labels.std() == 0 or predictions.std() == 0:
        return 0.0
    return float(np.corrcoef(labels, predictions)[0, 1])


def weighted_mcc(labels: NDArray[np.integer], predictions: NDArray[np.integer], weights: NDArray[np.float64]) -> float:
    """Matthews correlation of weighted 0/1 rows; 0 where either has a single class."""
    table = np.bincount(2 * labels + predictions, weights, minlength=4)
    tn, fp, fn, tp = (float(cell) for cell in table)
    scale = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / scale**0.5 if scale else 0.0


def roc_auc(
    scores: NDArray[np.floating], labels: NDArray[np.integer]
) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Area under the ROC curve of weighted rows: the chance that a 1 scores above a 0, half for a tie.

    Args:
        scores: larger for rows that are more likely 1, `(N,)`.
        labels: 0 or 1, `(N,)`.

    Returns:
        Maps weights `(..., N)` to areas `(...)` in [0, 1], NaN where a class has no weight; the rows are sorted once.

    Reference:
        Hanley and McNeil (1982), https://doi.org/10.1148/radiology.143.1.7063747.
    """
    order = np.argsort(scores, kind="stable")
    ordered, ones = scores[order], labels[order].astype(np.float64)
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))

    def area(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        sorted_weights = weights[..., order]
        positive = np.add.reduceat(sorted_weights * ones, starts, axis=-1)
        negative = np.add.reduceat(sorted_weights * (1 - ones), starts, axis=-1)
        below = np.cumsum(negative, axis=-1) - negative / 2
        total = positive.sum(-1) * negative.sum(-1)
        return np.where(total > 0, (positive * below).sum(-1) / np.where(total > 0, total, 1.0), np.nan)

    return area

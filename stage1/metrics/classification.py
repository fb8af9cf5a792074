"""Metrics of answers."""

from __future__ import annotations

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

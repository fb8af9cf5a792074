"""The order in which rows are trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.data.dataset import Dataset
from offline.errors import TrainingError


def epoch_order(labels: NDArray[np.int8], rng: np.random.Generator, *, balanced: bool) -> NDArray[np.intp]:
    """The rows of one epoch in their order, `(N,)`.

    Args:
        labels: `(N,)`.
        rng: draws the order.
        balanced: give every class the same number of rows. A larger class is drawn from without replacement; a smaller
            one is gone through again and again, each time in a new order.
    """
    if not balanced:
        return rng.permutation(len(labels))
    classes = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    wanted = np.diff(np.linspace(0, len(labels), len(classes) + 1).astype(int))
    drawn = [
        np.concatenate([rng.permutation(rows) for _ in range(-(-count // len(rows)))])[:count]
        for rows, count in zip(classes, wanted, strict=True)
    ]
    return rng.permutation(np.concatenate(drawn))


def batches(order: NDArray[np.intp], size: int) -> list[NDArray[np.intp]]:
    """An epoch's rows in batches; a last short batch is dropped unless it is the only one."""
    return [order[index * size : (index + 1) * size] for index in range(max(1, len(order) // size))]


def check_both_classes(data: Dataset) -> None:
    """Refuse to train on one class.

    Raises:
        TrainingError: it would be.
    """
    positives = int(data.labels.sum())
    if not 0 < positives < len(data):
        raise TrainingError(
            f"{positives} of the {len(data)} rows that train show roadwork: both classes are needed, so add rows of "
            "the other one or choose other splits"
        )

"""The order in which rows are trained on, and what is done about a rare class."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from offline.data.dataset import Dataset
from offline.errors import TrainingError

Balance = Literal["none", "batches", "logits"]

# A class with a smaller share than this is rare: the other one is then three times as frequent.
RARE = 0.25


def balance_of(labels: NDArray[np.int8], wanted: Balance | Literal["auto"]) -> Balance:
    """How the classes are balanced.

    `logits` adds the logarithm of the class shares to the logits in the loss alone, so that the network answers as if
    both classes were equally frequent: every image is seen equally often, and no image of the rare class is repeated.
    `batches` shows as many of each instead.

    Args:
        labels: of the rows that train, `(N,)`.
        wanted: `auto` takes `logits` if a class is rare.

    Reference:
        Menon et al. (2021), Long-tail learning via logit adjustment, arXiv 2007.07314, equation 10 with tau 1.
    """
    if wanted != "auto":
        return wanted
    return "logits" if np.bincount(labels, minlength=2).min() < RARE * len(labels) else "none"


def log_shares(labels: NDArray[np.int8]) -> tuple[float, float]:
    """Logarithms of the shares of class 0 and class 1, both present."""
    without, with_roadwork = np.log(np.bincount(labels, minlength=2) / len(labels)).tolist()
    return without, with_roadwork


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


def judged_epochs(epochs: int, most: int) -> frozenset[int]:
    """Which epochs, counted from 1, are judged: at most so many, evenly spread, and always the last."""
    count = min(most, epochs)
    return frozenset(-(-epochs * number // count) for number in range(1, count + 1))


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

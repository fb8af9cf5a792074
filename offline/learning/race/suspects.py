"""Rows whose labels are contradicted by models that did not train on them: a list for a person, and nothing is dropped.

References:
    Northcutt, Jiang and Chuang (2021), Confident learning: estimating uncertainty in dataset labels, arXiv 1911.00068.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from offline.learning.race.exit_share import losses
from offline.learning.race.outcome import Suspect

# Largest share of the rows that is listed.
MOST = 0.02
COLUMNS = ("image", "label", "probability", "loss", "new_label")


def suspects(ids: Sequence[str], labels: NDArray[np.integer], log_odds: NDArray[np.floating]) -> list[Suspect]:
    """The rows that contradict their labels most, the worst first.

    A row is one of them if its probability of the other class is at least what the rows of that class have on average
    (section 2.1 of the paper), and the other class is the likelier one.

    Args:
        ids: of the rows, `(N,)`.
        labels: 0 or 1, `(N,)`.
        log_odds: of roadwork, by models that did not train on the row, `(N,)`.
    """
    probability = expit(log_odds)
    of_class = np.stack([1 - probability, probability], axis=1)
    means = [of_class[labels == label, label].mean() if (labels == label).any() else 1.0 for label in (0, 1)]
    other = of_class[np.arange(len(labels)), 1 - labels]
    contradicts = (other > 0.5) & (other >= np.asarray(means)[1 - labels])
    loss = losses(log_odds, labels)
    worst = [row for row in np.argsort(-loss, kind="stable").tolist() if contradicts[row]]
    return [
        Suspect(row=ids[row], label=int(labels[row]), probability=float(probability[row]), loss=float(loss[row]))
        for row in worst[: int(MOST * len(labels))]
    ]


def suspects_csv(found: Sequence[Suspect]) -> str:
    """A table to fill in: the last column is empty, and takes the right label where the one of the file is wrong."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    for one in found:
        writer.writerow([one.row, one.label, f"{one.probability:.4f}", f"{one.loss:.4f}", ""])
    return buffer.getvalue()

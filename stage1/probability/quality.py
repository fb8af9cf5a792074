"""How good probabilities are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.metrics.reliability import LEAST_PROBABILITY, reliability
from stage1.probability.calibrator import checked_labels


class CalibrationBin(BaseModel):
    """Rows of about one probability.

    Attributes:
        probability: their mean probability.
        observed: share of them of which it came true.
        count: their number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: float
    observed: float
    count: int


class CalibrationQuality(BaseModel):
    """How good probabilities are, smaller is better.

    Attributes:
        rows: rows that they were compared with.
        negative_log_likelihood: mean of -ln of the probability given to what came, of at least 1e-12.
        brier: mean squared distance from what came, for a whole row of probabilities summed over its classes.
        expected_calibration_error: mean distance of `bins` from the diagonal, over the rows.
        bins: ten bins of equal width, without the empty ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    negative_log_likelihood: float
    brier: float
    expected_calibration_error: float
    bins: tuple[CalibrationBin, ...]


def judge(probabilities: NDArray[np.floating], labels: NDArray[np.generic]) -> CalibrationQuality:
    """Compare probabilities with what came.

    Args:
        probabilities: of class 1, `(N,)`, or of every class, `(N, K)`; of these, the bins are by the largest.
        labels: class of each row, `(N,)`.

    Raises:
        CalibrationError: labels are missing or unknown.
        ValueError: there are no rows, or a probability is not in [0, 1].
    """
    every = np.asarray(probabilities, np.float64)
    pairs = every if every.ndim == 2 else np.column_stack([1 - every, every])
    rows, classes = pairs.shape
    label = checked_labels(labels, rows, classes, several=False)
    came = np.eye(classes)[label]
    if every.ndim == 2:
        found = reliability(every.max(axis=1), every.argmax(axis=1) == label)
        squares = ((every - came) ** 2).sum(axis=1)
    else:
        found = reliability(every, label)
        squares = (every - label) ** 2
    gaps = np.abs(found.probability - found.observed)
    return CalibrationQuality(
        rows=rows,
        negative_log_likelihood=float(-np.mean(np.log(np.maximum(pairs[came == 1], LEAST_PROBABILITY)))),
        brier=float(squares.mean()),
        expected_calibration_error=float(gaps @ found.count / rows),
        bins=tuple(
            CalibrationBin(probability=probability, observed=observed, count=count)
            for probability, observed, count in zip(
                found.probability.tolist(), found.observed.tolist(), found.count.tolist(), strict=True
            )
        ),
    )

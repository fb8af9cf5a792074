"""A probability that rises with a score in whatever form the rows show, for scores that no smooth curve fits.

It calibrates scores of other people's models, for what is answered; no certificate is about them.

References:
    Zadrozny and Elkan (2002), Transforming classifier scores into accurate multiclass probability estimates, KDD.
    Niculescu-Mizil and Caruana (2005), Predicting good probabilities with supervised learning, ICML: with fewer than
        about a thousand rows it fits noise where a curve of few numbers does not.
"""

from __future__ import annotations

from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stage1.probability.calibrator import Doubles, checked_labels


class IsotonicCalibrator(BaseModel):
    """Linear between knots, and as the nearest one outside of them.

    Attributes:
        kind: tells it from the others.
        scores: of the knots, rising, in [0, 1].
        probability: of roadwork at each, never falling, in (0, 1).
        rows: rows it was fitted on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["isotonic"] = "isotonic"
    scores: tuple[float, ...] = Field(min_length=1)
    probability: tuple[float, ...]
    rows: int = Field(ge=0)

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if len(self.scores) != len(self.probability):
            raise ValueError(f"there are {len(self.scores)} scores and {len(self.probability)} probabilities")
        if not 0 <= self.scores[0] <= self.scores[-1] <= 1 or np.diff(self.scores).min(initial=1.0) <= 0:
            raise ValueError("scores must rise within [0, 1]")
        if not 0 < self.probability[0] <= self.probability[-1] < 1 or np.diff(self.probability).min(initial=0.0) < 0:
            raise ValueError("probabilities must not fall, within (0, 1)")
        return self

    def probabilities(self, scores: NDArray[np.floating]) -> Doubles:
        """Calibrated probability of roadwork, float64 `(N,)`.

        Args:
            scores: in [0, 1], `(N,)`.
        """
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probability)


def fit_isotonic(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> IsotonicCalibrator:
    """Fit the rising steps of the least squared error.

    The labels count as a little less than 1 and a little more than 0, by so much as one more row of each class would
    move them. Without it a step whose rows are of one class would answer with certainty, and the first row against it
    would cost an infinite log-loss.

    Args:
        scores: in [0, 1], of rows that are reported on nowhere, `(N,)`.
        labels: 0 or 1, `(N,)`.

    Raises:
        CalibrationError: labels are missing, unknown or of a single class.

    Reference:
        Platt (1999), Probabilistic outputs for support vector machines, section 2.2: the targets.
    """
    from scipy.optimize import isotonic_regression  # noqa: PLC0415  slow to import, and a live miner fits nothing

    values = np.asarray(scores, np.float64)
    truth = checked_labels(labels, len(values), 2)
    positives = int(truth.sum())
    target = np.where(truth == 1, (positives + 1) / (positives + 2), 1 / (len(truth) - positives + 2))
    knots, place, count = np.unique(values, return_inverse=True, return_counts=True)
    fitted = isotonic_regression(np.bincount(place, target) / count, weights=count)
    ends = np.unique(np.concatenate([fitted.blocks[:-1], fitted.blocks[1:] - 1]))
    # Sums of the same numbers in another order differ in their last digit.
    steps = np.maximum.accumulate(fitted.x[ends])
    return IsotonicCalibrator(scores=tuple(knots[ends].tolist()), probability=tuple(steps.tolist()), rows=len(truth))

"""The score of somebody else's model made a probability by the calibrators of this project.

A detector gives 0 where it finds nothing, and the logarithm of 0 would decide a whole fit, so scores are kept a little
away from 0 and 1 first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stage1.probability.calibrator import Doubles, HeadCalibrator
from stage1.probability.fit import fit_head

# Below a ten-thousandth the scores of detectors and of language models tell nothing apart.
FLOOR = 1e-4


def score_logits(scores: NDArray[np.floating], floor: float = FLOOR) -> Doubles:
    """Scores as the logits of two classes, float64 `(N, 2)`.

    Args:
        scores: in [0, 1], `(N,)`.
        floor: how far from 0 and 1 they are kept.
    """
    kept = np.clip(np.asarray(scores, np.float64), floor, 1 - floor)
    return np.stack([np.log1p(-kept), np.log(kept)], axis=1)


def fit_score(scores: NDArray[np.floating], labels: NDArray[np.integer], floor: float = FLOOR) -> HeadCalibrator:
    """Calibrators of scores; the beta calibrator answers, which has Platt's as a special case.

    Args:
        scores: in [0, 1], of rows that are reported on nowhere, `(N,)`.
        labels: 0 or 1, `(N,)`.
        floor: see `score_logits`.

    Raises:
        CalibrationError: the labels are of one class, or the search for the best fit did not end.
    """
    return fit_head("score", score_logits(scores, floor), labels, "beta")


def calibrated_scores(head: HeadCalibrator, scores: NDArray[np.floating], floor: float = FLOOR) -> Doubles:
    """Probabilities of roadwork, float64 `(N,)`.

    Args:
        head: from `fit_score`.
        scores: in [0, 1], `(N,)`.
        floor: the one it was fitted with.
    """
    found: Doubles = head.answering.probabilities(score_logits(scores, floor))[:, 1]
    return found

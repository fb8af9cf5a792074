"""The score of somebody else's model made a probability by the calibrators of this project.

A detector gives 0 where it finds nothing, and the logarithm of 0 would decide a whole fit, so scores are kept a little
away from 0 and 1 first.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from stage1.metrics.reliability import LEAST_PROBABILITY
from stage1.probability.calibrator import Doubles, HeadCalibrator
from stage1.probability.fit import fit_head
from stage1.probability.isotonic import IsotonicCalibrator, fit_isotonic

ScoreCalibrator = HeadCalibrator | IsotonicCalibrator

# Below a ten-thousandth the scores of detectors and of language models tell nothing apart.
FLOOR = 1e-4
# Parts of the groups that take turns in judging, and rows of each class without which the others teach nothing.
FOLDS, LEAST_OF_A_CLASS = 5, 2


def score_logits(scores: NDArray[np.floating], floor: float = FLOOR) -> Doubles:
    """Scores as the logits of two classes, float64 `(N, 2)`.

    Args:
        scores: in [0, 1], `(N,)`.
        floor: how far from 0 and 1 they are kept.
    """
    kept = np.clip(np.asarray(scores, np.float64), floor, 1 - floor)
    return np.stack([np.log1p(-kept), np.log(kept)], axis=1)


def fit_score(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> HeadCalibrator:
    """Calibrators of scores; the beta calibrator answers, which has Platt's as a special case.

    Args:
        scores: in [0, 1], of rows that are reported on nowhere, `(N,)`.
        labels: 0 or 1, `(N,)`.

    Raises:
        CalibrationError: the labels are of one class, or the search for the best fit did not end.
    """
    return fit_head("score", score_logits(scores), labels, "beta")


def chosen_score(scores: NDArray[np.floating], labels: NDArray[np.integer], groups: Sequence[str]) -> ScoreCalibrator:
    """The beta calibrator, or the isotonic one where the scores show that no smooth curve fits them.

    Both are fitted on four fifths of the groups and judged on the last one, in turns. The isotonic one is taken if its
    log-loss there is the smaller one by more than a standard error, counted over groups: with few rows that is noise.

    Args:
        scores: in [0, 1], of rows that are reported on nowhere, `(N,)`.
        labels: 0 or 1, `(N,)`.
        groups: group of each row, `(N,)`.

    Raises:
        CalibrationError: the labels are of one class, or the search for the best fit did not end.

    Reference:
        Breiman, Friedman, Olshen and Stone (1984), Classification and regression trees, section 3.4.3: one standard
        error before the simpler of two is given up.
    """
    beta = fit_score(scores, labels)
    values, truth = np.asarray(scores, np.float64), np.asarray(labels).astype(np.intp)
    names, member = np.unique(np.asarray(groups, np.str_), return_inverse=True)
    # By a hash: groups whose names are near each other, as those of one city, go to different folds.
    order = np.argsort([sha256(name.encode()).hexdigest() for name in names.tolist()])
    fold = np.argsort(order)[member] % FOLDS
    gained = np.zeros(len(values))
    for number in range(FOLDS):
        there = fold == number
        if np.bincount(truth[~there], minlength=2).min() < LEAST_OF_A_CLASS:
            return beta
        smooth = calibrated_scores(fit_score(values[~there], truth[~there]), values[there])
        steps = fit_isotonic(values[~there], truth[~there]).probabilities(values[there])
        gained[there] = _log_loss(smooth, truth[there]) - _log_loss(steps, truth[there])
    mean = gained.mean()
    error = np.sqrt(np.sum(np.bincount(member, gained - mean) ** 2)) / len(gained)
    return fit_isotonic(values, truth) if mean > error else beta


def _log_loss(probability: Doubles, truth: NDArray[np.intp]) -> Doubles:
    return -np.log(np.maximum(np.where(truth == 1, probability, 1 - probability), LEAST_PROBABILITY))


def calibrated_scores(calibrator: ScoreCalibrator, scores: NDArray[np.floating], floor: float = FLOOR) -> Doubles:
    """Probabilities of roadwork, float64 `(N,)`.

    Args:
        calibrator: from `chosen_score` or `fit_score`.
        scores: in [0, 1], `(N,)`.
        floor: the one it was fitted with.
    """
    if isinstance(calibrator, IsotonicCalibrator):
        return calibrator.probabilities(scores)
    found: Doubles = calibrator.answering.probabilities(score_logits(scores, floor))[:, 1]
    return found


def fitted_by(calibrator: ScoreCalibrator) -> tuple[str, int]:
    """The kind of the calibrator that answers, and the rows that it was fitted on."""
    answering = calibrator if isinstance(calibrator, IsotonicCalibrator) else calibrator.answering
    return answering.kind, answering.rows

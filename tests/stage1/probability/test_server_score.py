"""Scores of other models as probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from stage1.errors import CalibrationError
from stage1.metrics.reliability import expected_calibration_error
from stage1.probability.server_score import FLOOR, calibrated_scores, fit_score, score_logits


def test_scores_of_nothing_and_of_certainty_stay_finite() -> None:
    logits = score_logits(np.array([0.0, 0.5, 1.0]))
    assert np.isfinite(logits).all()
    assert logits[1, 0] == logits[1, 1]
    assert np.exp(logits[0, 1]) == pytest.approx(FLOOR)


def test_the_timid_scores_of_a_detector_become_true_probabilities() -> None:
    """A score of 0.2 means an even chance here, and a third of the images have no box at all."""
    rng = np.random.default_rng(5)
    scores = np.where(rng.random(4000) < 0.3, 0.0, rng.random(4000) * 0.4)
    truth = 1 / (1 + np.exp(-2 * (np.log(np.maximum(scores, 1e-4) / (1 - scores)) + 1.386)))
    labels = (rng.random(4000) < truth).astype(np.int8)
    head = fit_score(scores[:2000], labels[:2000])
    found = calibrated_scores(head, scores[2000:])
    assert expected_calibration_error(scores[2000:], labels[2000:]) > 0.15
    assert expected_calibration_error(found, labels[2000:]) < 0.03
    assert np.all(np.diff(calibrated_scores(head, np.linspace(0, 1, 50))) >= 0)
    assert head.answers == "beta"


def test_one_class_fits_nothing() -> None:
    with pytest.raises(CalibrationError, match="single class"):
        fit_score(np.array([0.1, 0.4]), np.array([0, 0]))

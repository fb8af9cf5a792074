"""Scores of other models as probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from stage1.errors import CalibrationError
from stage1.metrics.reliability import expected_calibration_error
from stage1.probability.isotonic import IsotonicCalibrator
from stage1.probability.server_score import (
    FLOOR,
    calibrated_scores,
    chosen_score,
    fit_score,
    fitted_by,
    score_logits,
)


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


def jump(rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Scores that say only whether they are above 0.6: nine tenths of those are roadwork, and of the others one."""
    rng = np.random.default_rng(seed)
    scores = rng.random(rows)
    return scores, (rng.random(rows) < np.where(scores > 0.6, 0.9, 0.1)).astype(np.int8)


def groups(rows: int, of: int = 1) -> list[str]:
    return [str(row // of) for row in range(rows)]


def test_steps_are_taken_where_no_curve_of_few_numbers_fits() -> None:
    scores, labels = jump(1500)
    found = chosen_score(scores, labels, groups(1500))
    assert isinstance(found, IsotonicCalibrator)
    assert fitted_by(found) == ("isotonic", 1500)
    fresh, truth = jump(4000, seed=2)
    smooth = expected_calibration_error(calibrated_scores(fit_score(scores, labels), fresh), truth)
    assert expected_calibration_error(calibrated_scores(found, fresh), truth) < 0.5 * smooth


@pytest.mark.parametrize("rows", [60, 600])
def test_a_curve_stays_where_it_fits(rows: int) -> None:
    taken = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        scores = rng.random(rows)
        labels = (rng.random(rows) < scores**2 / (scores**2 + (1 - scores) ** 2)).astype(np.int8)
        taken.append(fitted_by(chosen_score(scores, labels, groups(rows)))[0])
    assert taken.count("beta") >= 7


def test_rows_of_one_place_do_not_say_that_a_curve_does_not_fit() -> None:
    scores, labels = jump(1000)
    assert fitted_by(chosen_score(scores, labels, ["one"] * 1000))[0] == "beta"


def test_the_order_of_the_rows_chooses_nothing() -> None:
    scores, labels = jump(300)
    named = groups(300, of=3)
    turned = np.random.default_rng(0).permutation(300)
    one = chosen_score(scores, labels, named)
    other = chosen_score(scores[turned], labels[turned], [named[at] for at in turned])
    assert calibrated_scores(one, scores) == pytest.approx(calibrated_scores(other, scores), abs=1e-6)

"""Calibrators against betacal, the reference implementation of beta calibration.

Reference:
    Kull, Silva Filho, Flach (2017), Beta calibration, AISTATS.
"""

from __future__ import annotations

import numpy as np
import pytest
from betacal import BetaCalibration
from scipy.special import expit

from stage1.probability.fit import Penalty, fit_affine

FREE = Penalty()


def skewed(seed: int, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are wrong differently on the two sides, and labels."""
    rng = np.random.default_rng(seed)
    truth = 2 * rng.normal(size=rows)
    score = np.where(truth > 0, 2.5 * truth, 0.6 * truth) + 0.4
    return np.stack([np.zeros(rows), score], 1), (rng.random(rows) < expit(truth)).astype(np.int64)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_beta_calibration_is_theirs(seed: int) -> None:
    logits, labels = skewed(seed)
    theirs = BetaCalibration("abm").fit(expit(logits[:, 1]).reshape(-1, 1), labels)
    grid = np.linspace(-5, 5, 201)
    ours = fit_affine("beta", logits, labels, FREE).probabilities(np.stack([np.zeros(201), grid], 1))[:, 1]
    assert np.abs(ours - theirs.predict(expit(grid))).max() < 1e-3


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_matrix_of_two_classes_says_what_three_numbers_say(seed: int) -> None:
    logits, labels = skewed(seed)
    whole, three = (fit_affine(kind, logits, labels, FREE).probabilities(logits) for kind in ("dirichlet", "beta"))
    assert np.abs(whole - three).max() < 1e-6

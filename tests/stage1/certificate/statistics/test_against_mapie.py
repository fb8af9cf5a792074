"""Side by side with MAPIE: the same p-values, and the same thresholds by fixed-sequence control."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from mapie.risk_control import BinaryClassificationController, BinaryRisk, FWERFixedSequenceTesting, control_fwer
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from numpy.typing import NDArray
from scipy.special import expit

from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Chain
from stage1.certificate.risks import Risk
from stage1.certificate.search.algorithms import Claim, Walk, walk
from stage1.certificate.statistics.binomial import p_value, p_values

Maker = Callable[..., LabelledOutputs]
ALPHA, DELTA = 0.05, 0.10
GRID = np.linspace(-4, 1, 200, dtype=np.float32)


def walked(data: LabelledOutputs, risk: Risk, *, tau: float, t1: float) -> Walk:
    chain = Chain(tau=tau, t1=t1, grid=tuple(GRID.tolist()))
    return walk(data, data.units("row", 0), chain, [Claim(risk, ALPHA, DELTA)])


def rebuilt_count(found: Walk) -> NDArray[np.int64]:
    """MAPIE rebuilds the count of losses from a rate; a rounding error makes it one more here and there."""
    losses, trials = found.counts[0].losses, found.counts[0].trials
    return np.ceil(trials * (losses / np.maximum(trials, 1))).astype(np.int64)


@pytest.mark.parametrize("seed", range(10))
def test_the_p_values_of_a_walk_are_theirs(binormal: Maker, seed: int) -> None:
    found = walked(binormal(1500, seed=seed), Risk.MISS_EXIT, tau=0.3, t1=1.0)
    losses, trials = found.counts[0].losses, found.counts[0].trials
    for k, m in zip(rebuilt_count(found), trials, strict=True):
        theirs = compute_hoeffding_bentkus_p_value(np.array([k / m]), int(m), np.array([ALPHA]), binary=True).item()
        ours = p_value(math.ceil(m * (k / m)), int(m), ALPHA)
        assert theirs == pytest.approx(ours, rel=1e-9)
    exact = rebuilt_count(found) == losses
    assert exact.mean() > 0.8
    assert (found.p_values[0][exact] == p_values(losses, trials, ALPHA)[exact]).all()


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_for_the_miss_rate_on_exits_is_theirs(binormal: Maker, seed: int) -> None:
    """With a gate and deferrals MAPIE takes the p-values, and controls the family."""
    data = binormal(1500, seed=seed)
    found = walked(data, Risk.MISS_EXIT, tau=0.3, t1=1.0)
    score, gate = data.outputs.roadwork_score, data.outputs.select_score >= np.float32(0.3)
    theirs = []
    for t0 in GRID:
        missed = int(np.sum(data.positive & gate & (score < t0)))
        trials = missed + int(np.sum(data.positive & gate & (score >= 1.0)))
        rate = np.array([missed / trials])
        theirs.append(compute_hoeffding_bentkus_p_value(rate, trials, np.array([ALPHA]), binary=True).item())
    certified = control_fwer(np.array(theirs), DELTA, FWERFixedSequenceTesting())
    assert found.certified > 0
    assert certified.tolist() == list(range(len(certified)))
    # One more loss than there was is conservative: they may stop where the count is rebuilt wrongly, never later.
    assert len(certified) <= found.certified
    wrongly = rebuilt_count(found) != found.counts[0].losses
    assert len(certified) == found.certified or wrongly[len(certified)]


@pytest.mark.parametrize("seed", range(6))
def test_their_controller_ends_at_the_same_threshold(binormal: Maker, seed: int) -> None:
    data = binormal(1500, seed=seed)

    def probabilities(rows: NDArray[np.float32]) -> NDArray[np.float64]:
        probability = expit(rows[:, 0].astype(np.float64))
        return np.stack([1 - probability, probability], 1)

    missed = BinaryRisk(
        risk_occurrence=lambda _, guess: guess.ravel() == 0,
        risk_condition=lambda truth, _: truth.ravel() == 1,
        higher_is_better=False,
    )
    controller = BinaryClassificationController(
        probabilities,
        missed,
        ALPHA,
        confidence_level=1 - DELTA,
        best_predict_param_choice="precision",
        list_predict_params=expit(GRID.astype(np.float64)),
        fwer_method="fixed_sequence",
    )
    controller.calibrate(data.outputs.roadwork_score[:, None], data.labels)
    found = walked(data, Risk.MISS_ALL, tau=float(data.outputs.select_score.min()), t1=float(GRID[-1]))
    theirs = len(controller.valid_predict_params)
    wrongly = rebuilt_count(found) != found.counts[0].losses
    assert theirs == found.certified or (theirs < found.certified and wrongly[theirs])
    assert found.certified > 0

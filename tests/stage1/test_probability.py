from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, logit

from stage1.decisions import Decisions
from stage1.metrics import rounded
from stage1.outputs import Stage1Outputs
from stage1.probability import ProbabilityCalibrator, answer_probability, fit_calibrator

Maker = Callable[..., Stage1Outputs]
PROBABILITIES = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


def log_loss(probability: np.ndarray, labels: np.ndarray) -> float:
    likelihood = np.where(labels == 1, probability, 1 - probability)
    return float(-np.mean(np.log(likelihood.clip(1e-15))))


class TestFit:
    def test_calibrated_scores_stay_as_they_are(self, outputs_of: Maker) -> None:
        rng = np.random.default_rng(1)
        score = rng.normal(0, 2.5, 40_000)
        fitted = fit_calibrator(outputs_of(score), (rng.random(len(score)) < expit(score)).astype(int))
        assert (fitted.a, fitted.b, fitted.c) == pytest.approx((1, 1, 0), abs=0.06)
        assert fitted.rows == 40_000

    @pytest.mark.parametrize("temperature", [0.4, 3.0, 6.26])
    def test_recovers_a_temperature_however_large(self, outputs_of: Maker, temperature: float) -> None:
        rng = np.random.default_rng(2)
        honest = rng.normal(0, 2.5, 40_000)
        labels = (rng.random(len(honest)) < expit(honest)).astype(int)
        outputs = outputs_of(honest * temperature)
        fitted = fit_calibrator(outputs, labels)
        assert np.abs(fitted.probability(outputs) - expit(honest)).max() < 0.02

    def test_recovers_beta_calibration(self, outputs_of: Maker) -> None:
        rng = np.random.default_rng(3)
        p = rng.beta(1.0, 1.0, 60_000).clip(1e-6, 1 - 1e-6)
        truth = expit(1.6 * np.log(p) - 0.7 * np.log1p(-p) + 0.4)
        outputs = outputs_of(logit(p))
        fitted = fit_calibrator(outputs, (rng.random(len(p)) < truth).astype(int))
        assert (fitted.a, fitted.b, fitted.c) == pytest.approx((1.6, 0.7, 0.4), abs=0.1)

    def test_never_makes_the_fitted_rows_less_likely(self, outputs_of: Maker) -> None:
        for seed in range(20):
            rng = np.random.default_rng((4, seed))
            score = rng.normal(rng.normal(), 1 + 3 * rng.random(), 200)
            labels = (rng.random(200) < expit(rng.normal(1, 1) * score + rng.normal())).astype(int)
            outputs = outputs_of(score)
            after = log_loss(fit_calibrator(outputs, labels).probability(outputs), labels)
            assert after <= log_loss(ProbabilityCalibrator().probability(outputs), labels) + 1e-9

    @pytest.mark.parametrize("labels", [np.zeros(50, int), np.ones(50, int)])
    def test_one_class_is_survived(self, outputs_of: Maker, labels: np.ndarray) -> None:
        fitted = fit_calibrator(outputs_of(np.linspace(-3, 3, 50)), labels)
        assert np.isfinite([fitted.a, fitted.b, fitted.c]).all()

    def test_separated_classes_do_not_run_away(self, outputs_of: Maker) -> None:
        score = np.concatenate([np.linspace(-9, -1, 50), np.linspace(1, 9, 50)])
        fitted = fit_calibrator(outputs_of(score), (score > 0).astype(int))
        assert max(fitted.a, fitted.b, abs(fitted.c)) < 100


class TestProbability:
    def test_the_identity_is_the_softmax(self, outputs_of: Maker) -> None:
        score = np.linspace(-30, 30, 101)
        assert ProbabilityCalibrator().probability(outputs_of(score)) == pytest.approx(expit(score), rel=1e-6)

    @given(
        st.floats(0, 5),
        st.floats(0, 5),
        st.floats(-3, 3),
        arrays(np.float32, 20, elements=st.floats(-1e4, 1e4, width=32)),
    )
    def test_rises_with_the_score_and_stays_a_probability(
        self, outputs_of: Maker, a: float, b: float, c: float, score: np.ndarray
    ) -> None:
        probability = ProbabilityCalibrator(a=a, b=b, c=c).probability(outputs_of(np.sort(score)))
        assert ((probability >= 0) & (probability <= 1)).all()
        assert (np.diff(probability) >= -1e-12).all()

    def test_a_falling_calibrator_is_refused(self) -> None:
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            ProbabilityCalibrator(a=-0.1)

    def test_survives_the_disk(self, tmp_path: Path) -> None:
        calibrator = ProbabilityCalibrator(a=1 / 3, b=0.1, c=-2 / 7, rows=9)
        calibrator.write(tmp_path / "calibrator.json")
        assert ProbabilityCalibrator.read(tmp_path / "calibrator.json") == calibrator


class TestAnswer:
    @given(PROBABILITIES, st.data())
    def test_an_exit_is_answered_with_what_validators_round_to_its_label(
        self, probability: np.ndarray, data: st.DataObject
    ) -> None:
        size = len(probability)
        labels = np.array(data.draw(st.lists(st.integers(-1, 1), min_size=size, max_size=size)), np.int8)
        decisions = Decisions.from_exit_labels(labels, np.zeros(size, bool))
        answer = answer_probability(probability, decisions)
        exits = decisions.exits
        assert rounded(answer)[exits].tolist() == labels[exits].tolist()
        assert answer[~exits].tolist() == probability[~exits].tolist()
        assert ((answer >= 0) & (answer <= 1)).all()

    @given(PROBABILITIES)
    def test_a_probability_on_the_right_side_is_not_touched(self, probability: np.ndarray) -> None:
        labels = np.where(probability > 0.51, 1, np.where(probability < 0.5, 0, -1)).astype(np.int8)
        decisions = Decisions.from_exit_labels(labels, np.zeros(len(labels), bool))
        assert answer_probability(probability, decisions).tolist() == probability.tolist()

    def test_an_exit_as_1_survives_single_precision(self) -> None:
        decisions = Decisions.from_exit_labels(np.array([1], np.int8), np.array([False]))
        answer = answer_probability(np.array([0.2]), decisions)
        assert np.round(np.float32(answer[0])) == 1

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_expit, log_softmax, logit, softmax
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, log_loss

from stage1.decisions import Decisions
from stage1.errors import ArtifactError, CalibrationError
from stage1.metrics.reward import rounded
from stage1.outputs import Stage1Outputs
from stage1.probability.calibrator import (
    AffineCalibrator,
    HeadCalibrator,
    Kind,
    ProbabilityCalibrator,
    answer_probability,
)
from stage1.probability.fit import PENALTIES, Penalty, fit_affine, fit_calibrator
from stage1.probability.quality import judge
from tests.support.calibrators import calibrator_of_slopes, head_probabilities

Maker = Callable[..., Stage1Outputs]
Doubles = NDArray[np.float64]
PROBABILITIES = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))
KINDS: tuple[Kind, ...] = ("dirichlet", "beta", "temperature")
FREE = Penalty()


def honest_scores(rows: int, *, seed: int) -> tuple[Doubles, NDArray[np.int64]]:
    """Log-odds of roadwork, and labels that came true as often as they say."""
    rng = np.random.default_rng(seed)
    score = rng.normal(0, 2.5, rows)
    return score, (rng.random(rows) < expit(score)).astype(np.int64)


def three_classes(rows: int, *, seed: int) -> tuple[Doubles, NDArray[np.int64], Doubles]:
    """Logits of a head, labels, and the probabilities by which these were drawn: another affine map of the logits."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (rows, 3))
    weights = np.array([[0.8, 0.3, 0.0], [-0.2, 1.3, 0.1], [0.0, 0.4, 0.6]])
    truth = softmax(log_softmax(logits, axis=1) @ weights.T + np.array([0.5, 0.0, -0.4]), axis=1)
    labels = (rng.random((rows, 1)) > np.cumsum(truth, axis=1)[:, :2]).sum(axis=1)
    return logits, labels, truth


def pair(score: Doubles) -> Doubles:
    """Two logits with this difference."""
    return np.column_stack([np.zeros_like(score), score])


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.4, 1.27, 3.0, 6.26, 40.0])
    def test_is_found_however_large(self, outputs_of: Maker, temperature: float) -> None:
        score, labels = honest_scores(20_000, seed=2)
        outputs = outputs_of(score * temperature)
        fitted = fit_calibrator(outputs, labels, answers="temperature")
        slope = fitted.heads["class"].answering.slopes[0]
        assert 1 / slope == pytest.approx(temperature, rel=0.03)
        assert np.abs(fitted.probability(outputs) - expit(score)).max() < 0.02

    def test_is_the_best_on_a_line(self) -> None:
        score, labels = honest_scores(2000, seed=3)
        boastful = 6.26 * score

        def cost(factor: float) -> float:
            return float(np.mean(np.logaddexp(0, factor * boastful) - labels * factor * boastful))

        best = minimize_scalar(cost, bounds=(0, 2), method="bounded", options={"xatol": 1e-12}).x
        fitted = fit_affine("temperature", pair(boastful), labels, FREE)
        assert fitted.slopes == pytest.approx((best, best, 0), rel=1e-5)

    def test_is_sklearns_for_three_classes(self) -> None:
        logits, labels, _ = three_classes(3000, seed=4)
        model = LogisticRegression().fit(logits, labels)
        model.coef_, model.intercept_ = 4 * np.eye(3), np.zeros(3)
        theirs = CalibratedClassifierCV(FrozenEstimator(model), method="temperature", cv=2).fit(logits, labels)
        ours = fit_affine("temperature", 4 * logits, labels, FREE)
        assert ours.probabilities(4 * logits) == pytest.approx(theirs.predict_proba(logits), abs=2e-4)

    def test_never_changes_which_class_is_likeliest(self) -> None:
        logits, labels, _ = three_classes(500, seed=5)
        fitted = fit_affine("temperature", logits, labels, FREE)
        assert (fitted.probabilities(logits).argmax(axis=1) == logits.argmax(axis=1)).all()


class TestBeta:
    def test_is_a_logistic_regression_on_both_log_probabilities(self) -> None:
        score, labels = honest_scores(3000, seed=6)
        skewed = np.where(score > 0, 3 * score, 0.7 * score) - 0.5
        design = np.column_stack([log_expit(skewed), -log_expit(-skewed)])
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(design, labels)
        expected = [*theirs.coef_[0].tolist(), float(theirs.intercept_[0])]
        assert min(expected[:2]) > 0
        assert fit_affine("beta", pair(skewed), labels, FREE).slopes == pytest.approx(expected, abs=1e-4)

    def test_recovers_the_law_that_drew_the_labels(self, outputs_of: Maker) -> None:
        rng = np.random.default_rng(3)
        p = rng.beta(1.0, 1.0, 60_000).clip(1e-6, 1 - 1e-6)
        truth = expit(1.6 * np.log(p) - 0.7 * np.log1p(-p) + 0.4)
        fitted = fit_calibrator(outputs_of(logit(p)), (rng.random(len(p)) < truth).astype(int), answers="beta")
        assert fitted.heads["class"].answering.slopes == pytest.approx((1.6, 0.7, 0.4), abs=0.1)

    def test_a_score_that_points_the_wrong_way_leaves_the_base_rate(self, outputs_of: Maker) -> None:
        score, labels = honest_scores(3000, seed=7)
        for kind in ("beta", "dirichlet"):
            fitted = fit_calibrator(outputs_of(-score), labels, answers=kind)
            assert fitted.probability(outputs_of(-score)) == pytest.approx(labels.mean(), abs=1e-3)

    def test_is_for_two_classes(self) -> None:
        logits, labels, _ = three_classes(50, seed=8)
        with pytest.raises(CalibrationError, match="beta calibration is for two classes, not 3"):
            fit_affine("beta", logits, labels, FREE)


class TestDirichlet:
    def test_is_a_multinomial_regression_on_log_probabilities(self) -> None:
        logits, labels, _ = three_classes(3000, seed=9)
        design = log_softmax(logits, axis=1)
        theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(design, labels)
        ours = fit_affine("dirichlet", logits, labels, FREE).probabilities(logits)
        assert log_loss(labels, ours) == pytest.approx(log_loss(labels, theirs.predict_proba(design)), abs=1e-9)
        assert ours == pytest.approx(theirs.predict_proba(design), abs=1e-3)

    def test_recovers_the_law_that_drew_the_labels(self) -> None:
        logits, labels, truth = three_classes(60_000, seed=10)
        fitted = fit_affine("dirichlet", 6 * logits, labels, Penalty(1e-3, 1e-3, 1e-6))
        assert np.abs(fitted.probabilities(6 * logits) - truth).mean() < 0.05

    def test_a_strong_penalty_leaves_the_identity(self) -> None:
        logits, labels, _ = three_classes(300, seed=11)
        fitted = fit_affine("dirichlet", logits, labels, Penalty(1e6, 1e6, 1e6))
        assert np.array(fitted.weights) == pytest.approx(np.eye(3), abs=1e-5)
        assert fitted.intercept == pytest.approx([0, 0, 0], abs=1e-5)

    def test_each_penalty_pulls_its_own_numbers(self) -> None:
        logits, labels, _ = three_classes(300, seed=12)
        off_diagonal = np.array(fit_affine("dirichlet", logits, labels, Penalty(off_diagonal=1e6)).weights)
        assert np.abs(off_diagonal - np.diag(np.diag(off_diagonal))).max() < 1e-5 < np.ptp(np.diag(off_diagonal))
        intercept = fit_affine("dirichlet", logits, labels, Penalty(intercept=1e6, diagonal=1e-6))
        assert np.abs(intercept.intercept).max() < 1e-5 < np.abs(np.array(intercept.weights) - np.eye(3)).max()

    def test_off_the_diagonal_two_classes_have_nothing_to_penalise(self) -> None:
        score, labels = honest_scores(500, seed=13)
        light, heavy = (fit_affine("dirichlet", pair(score), labels, Penalty(weight)) for weight in (0, 1e6))
        assert light == heavy
        assert light.slopes == pytest.approx(fit_affine("beta", pair(score), labels, FREE).slopes)


class TestFit:
    @pytest.mark.parametrize("kind", KINDS)
    def test_calibrated_scores_stay_as_they_are(self, outputs_of: Maker, kind: Kind) -> None:
        score, labels = honest_scores(40_000, seed=1)
        fitted = fit_calibrator(outputs_of(score), labels, answers=kind).heads["class"].answering
        assert fitted.slopes == pytest.approx((1, 1, 0), abs=0.06)
        assert (fitted.kind, fitted.rows) == (kind, 40_000)

    @pytest.mark.parametrize("kind", KINDS)
    def test_never_makes_the_fitted_rows_less_likely(self, outputs_of: Maker, kind: Kind) -> None:
        for seed in range(20):
            rng = np.random.default_rng((4, seed))
            score = rng.normal(rng.normal(), 1 + 3 * rng.random(), 200)
            labels = (rng.random(200) < expit(rng.normal(1, 1) * score + rng.normal())).astype(int)
            outputs = outputs_of(score)
            after = log_loss(labels, fit_calibrator(outputs, labels, answers=kind).probability(outputs))
            assert after <= log_loss(labels, ProbabilityCalibrator().probability(outputs)) + 1e-9

    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
    def test_separated_classes_do_not_run_away(self, outputs_of: Maker, scale: float) -> None:
        score = np.concatenate([np.linspace(-9, -1, 50), np.linspace(1, 9, 50)]) * scale
        for calibrator in fit_calibrator(outputs_of(score), (score > 0).astype(int)).heads["class"].fitted:
            assert max(calibrator.slopes[:2]) * min(scale, 1) < 100
            assert (calibrator.probabilities(pair(score)).argmax(axis=1) == (score > 0)).all()

    def test_every_kind_is_kept_and_one_of_them_answers(self, outputs_of: Maker) -> None:
        score, labels = honest_scores(400, seed=14)
        outputs = outputs_of(score)
        fits = {kind: fit_calibrator(outputs, labels, answers=kind) for kind in KINDS}
        assert fits["dirichlet"] == fit_calibrator(outputs, labels)
        for kind, fitted in fits.items():
            head = fitted.heads["class"]
            assert [calibrator.kind for calibrator in head.fitted] == list(KINDS)
            expected = head.by_kind(kind).probabilities(outputs.logits)[:, 1]
            assert fitted.probability(outputs) == pytest.approx(expected, abs=1e-12)

    def test_a_named_head_has_its_own(self) -> None:
        logits, kinds, truth = three_classes(20_000, seed=15)
        score, labels = honest_scores(20_000, seed=15)
        outputs = Stage1Outputs(
            pair(score).astype(np.float32), np.zeros(20_000, np.float32), {"closure": 5 * logits.astype(np.float32)}
        )
        fitted = fit_calibrator(outputs, labels, head_labels={"closure": kinds}, answers="beta")
        closure = fitted.heads["closure"]
        assert [calibrator.kind for calibrator in closure.fitted] == ["dirichlet", "temperature"]
        assert (fitted.heads["class"].answers, closure.answers) == ("beta", "dirichlet")
        assert np.abs(head_probabilities(fitted, "closure", outputs.heads["closure"]) - truth).mean() < 0.05
        main = head_probabilities(fitted, "class", outputs.logits)
        assert main[:, 1] == pytest.approx(fitted.probability(outputs), abs=1e-6)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            ([0, 0, 0, 0], "head 'class': 4 rows of a single class calibrate nothing"),
            ([0, 1, np.nan, np.nan], "2 of 4 labels are NaN"),
            ([0, 1, 2, -1], r"2 of 4 labels are not among the classes 0\.\.1"),
            ([0, 1, 0.5, 1], "1 of 4 labels are not among the classes"),
            ([0, 1], r"4 rows and labels of shape \(2,\)"),
        ],
    )
    def test_labels_that_teach_nothing_are_named(self, outputs_of: Maker, labels: list[float], message: str) -> None:
        with pytest.raises(CalibrationError, match=message):
            fit_calibrator(outputs_of(np.linspace(-1, 1, 4)), np.array(labels))

    def test_a_class_that_never_came_becomes_unlikely_and_stays_possible(self) -> None:
        logits, labels, _ = three_classes(400, seed=20)
        fitted = fit_affine("dirichlet", logits, np.minimum(labels, 1), PENALTIES["dirichlet"])
        assert 0 < fitted.probabilities(logits)[:, 2].mean() < 0.01

    def test_a_search_that_does_not_end_is_no_fit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("stage1.probability.fit.CONVERGED", -1.0)
        score, labels = honest_scores(50, seed=21)
        with pytest.raises(CalibrationError, match="the fit of the beta calibrator did not end: slope"):
            fit_affine("beta", pair(score), labels, FREE)

    @pytest.mark.parametrize("name", ["closure", "class"])
    def test_labels_of_a_head_that_is_not_there_are_refused(self, outputs_of: Maker, name: str) -> None:
        labels = np.array([0, 1])
        with pytest.raises(CalibrationError, match=f"labels for head '{name}', but the outputs have no named heads"):
            fit_calibrator(outputs_of(np.zeros(2)), labels, head_labels={name: labels})


class TestProbability:
    def test_the_identity_is_the_softmax(self, outputs_of: Maker) -> None:
        score = np.linspace(-30, 30, 101)
        identity = ProbabilityCalibrator()
        assert identity.probability(outputs_of(score)) == pytest.approx(expit(score), rel=1e-6)
        assert head_probabilities(identity, "class", pair(score)) == pytest.approx(softmax(pair(score), axis=1))

    @given(
        st.floats(0, 5),
        st.floats(0, 5),
        st.floats(-3, 3),
        arrays(np.float32, 20, elements=st.floats(-1e4, 1e4, width=32)),
    )
    def test_rises_with_the_score_and_stays_a_probability(
        self, outputs_of: Maker, a: float, b: float, c: float, score: NDArray[np.float32]
    ) -> None:
        outputs = outputs_of(np.sort(score))
        calibrator = calibrator_of_slopes(a, b, c)
        probability = calibrator.probability(outputs)
        assert ((probability >= 0) & (probability <= 1)).all()
        assert (np.diff(probability) >= -1e-12).all()
        both = head_probabilities(calibrator, "class", outputs.logits)
        assert both[:, 1] == pytest.approx(probability, abs=1e-6)
        assert both.sum(axis=1) == pytest.approx(1)

    @pytest.mark.parametrize("slopes", [(-0.1, 1.0), (1.0, -0.1)])
    def test_a_falling_calibrator_is_refused(self, slopes: tuple[float, float]) -> None:
        with pytest.raises(ValueError, match="the roadwork score must not fall"):
            calibrator_of_slopes(*slopes)

    @pytest.mark.parametrize(
        ("weights", "intercept"), [(((1.0, 0.0),), (0.0, 0.0)), (((1.0, 0.0), (0.0,)), (0.0, 0.0)), (((1.0,),), (0.0,))]
    )
    def test_a_map_of_the_wrong_shape_is_refused(
        self, weights: tuple[tuple[float, ...], ...], intercept: tuple[float, ...]
    ) -> None:
        with pytest.raises(ValidationError, match="weights must be K rows of K"):
            AffineCalibrator(kind="dirichlet", weights=weights, intercept=intercept)

    def test_a_head_answers_with_one_of_its_own(self) -> None:
        identity = AffineCalibrator.identity(2)
        with pytest.raises(ValidationError, match="beta among them, expected"):
            HeadCalibrator(answers="beta", fitted=(identity,))
        with pytest.raises(ValidationError, match="one calibrator of each kind"):
            HeadCalibrator(answers="dirichlet", fitted=(identity, identity))
        other = AffineCalibrator(kind="beta", weights=((1, 0, 0), (0, 1, 0), (0, 0, 1)), intercept=(0, 0, 0))
        with pytest.raises(ValidationError, match="must have the same classes"):
            HeadCalibrator(answers="dirichlet", fitted=(identity, other))
        with pytest.raises(CalibrationError, match="no beta calibrator; there are dirichlet"):
            HeadCalibrator.of(identity).by_kind("beta")

    def test_the_main_head_has_two_classes_and_cannot_be_left_out(self) -> None:
        for heads in ({}, {"class": HeadCalibrator.of(AffineCalibrator.identity(3))}):
            with pytest.raises(ValidationError, match="a head 'class' of two classes is missing"):
                ProbabilityCalibrator(heads=heads)

    def test_a_head_that_was_not_calibrated_has_no_probabilities(self) -> None:
        assert list(ProbabilityCalibrator().heads) == ["class"]
        with pytest.raises(CalibrationError, match=r"logits have shape \(1, 3\), the calibrator is for \(N, 2\)"):
            head_probabilities(ProbabilityCalibrator(), "class", np.zeros((1, 3)))

    def test_survives_the_disk(self, tmp_path: Path, outputs_of: Maker) -> None:
        score, labels = honest_scores(300, seed=16)
        fitted = fit_calibrator(outputs_of(score), labels)
        before = fitted.probability(outputs_of(score))
        fitted.write(tmp_path / "calibrator.json")
        found = ProbabilityCalibrator.read(tmp_path / "calibrator.json")
        assert found == fitted
        assert (found.probability(outputs_of(score)) == before).all()

    def test_a_file_of_the_first_version_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "calibrator.json"
        path.write_text('{"schema_version": 1, "a": 1.0, "b": 1.0, "c": 0.0, "rows": 9}')
        with pytest.raises(ArtifactError, match="schema_version is 1, this program reads 2"):
            ProbabilityCalibrator.read(path)

    def test_what_answers_loads_nothing_that_fits(self) -> None:
        script = (
            "import sys, stage1.probability.calibrator; "
            "sys.exit('scipy.optimize' in sys.modules or 'sklearn' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


class TestQuality:
    def test_of_the_probability_of_roadwork(self) -> None:
        rng = np.random.default_rng(17)
        probability, labels = rng.random(500), rng.integers(0, 2, 500)
        found = judge(probability, labels)
        assert found.negative_log_likelihood == pytest.approx(log_loss(labels, probability))
        assert found.brier == pytest.approx(brier_score_loss(labels, probability))
        gaps = 0.0
        for edge in range(10):
            inside = (probability >= edge / 10) & (probability < (edge + 1) / 10)
            gaps += abs(probability[inside].sum() - labels[inside].sum())
            assert found.bins[edge].count == inside.sum()
            assert found.bins[edge].observed == pytest.approx(labels[inside].mean())
        assert found.expected_calibration_error == pytest.approx(gaps / 500)

    def test_of_several_classes_is_binned_by_the_likeliest(self) -> None:
        logits, labels, truth = three_classes(20_000, seed=18)
        honest, boastful = judge(truth, labels), judge(softmax(8 * logits, axis=1), labels)
        assert honest.negative_log_likelihood == pytest.approx(log_loss(labels, truth))
        assert honest.brier == pytest.approx(np.mean(((truth - np.eye(3)[labels]) ** 2).sum(axis=1)))
        assert honest.expected_calibration_error < 0.02
        assert boastful.expected_calibration_error > 0.2
        assert min(item.probability for item in honest.bins) > 1 / 3
        assert sum(item.count for item in honest.bins) == honest.rows == 20_000

    def test_calibration_improves_what_boasts(self, outputs_of: Maker) -> None:
        score, labels = honest_scores(4000, seed=19)
        outputs = outputs_of(6 * score)
        before = judge(ProbabilityCalibrator().probability(outputs), labels)
        after = judge(fit_calibrator(outputs, labels).probability(outputs), labels)
        assert after.negative_log_likelihood < before.negative_log_likelihood / 2
        assert after.brier < before.brier
        assert after.expected_calibration_error < 0.02
        assert before.expected_calibration_error > 0.1

    def test_one_class_can_be_judged_and_an_unknown_one_cannot(self) -> None:
        assert judge(np.array([0.5, 1.0]), np.ones(2)).brier == 0.125
        with pytest.raises(CalibrationError, match="1 of 2 labels are NaN"):
            judge(np.array([0.5, 1.0]), np.array([1, np.nan]))


class TestAnswer:
    @given(PROBABILITIES, st.data())
    def test_an_exit_is_answered_with_what_validators_round_to_its_label(
        self, probability: Doubles, data: st.DataObject
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
    def test_a_probability_on_the_right_side_is_not_touched(self, probability: Doubles) -> None:
        labels = np.where(probability > 0.51, 1, np.where(probability < 0.5, 0, -1)).astype(np.int8)
        decisions = Decisions.from_exit_labels(labels, np.zeros(len(labels), bool))
        assert answer_probability(probability, decisions).tolist() == probability.tolist()

    def test_an_exit_as_1_survives_single_precision(self) -> None:
        decisions = Decisions.from_exit_labels(np.array([1], np.int8), np.array([False]))
        answer = answer_probability(np.array([0.2]), decisions)
        assert np.round(np.float32(answer[0])) == 1

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from stage1.metrics import accuracy, area_under_generalized_risk, matthews_correlation, rounded, subnet_reward

LABELS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=60)
RANKED = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=60)

N = 100
ALTERNATING = np.arange(N) % 2
RAMP = np.linspace(0, 1, N)
PLATEAUS = np.repeat(np.arange(4), 25)


def augrc_point_by_point(confidence: NDArray[np.floating], losses: NDArray[np.floating]) -> float:
    """Trapezoids under P(answered and wrong) against P(answered), thresholds from none answered to all."""
    area, previous = 0.0, (0.0, 0.0)
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        answered = confidence >= threshold
        point = float(np.mean(answered)), float(np.mean(np.where(answered, losses, 0.0)))
        area += (point[0] - previous[0]) * (point[1] + previous[1]) / 2
        previous = point
    return area


def reward_literally(labels: list[int], answers: list[float]) -> float:
    """One challenge after the other, with the lists that a validator keeps."""
    seen: list[tuple[int, int]] = []
    rewards = []
    for label, answer in zip(labels, answers, strict=True):
        if answer == -1:
            rewards.append(0.0)
            continue
        seen.append((label, int(np.round(answer))))
        long, short = seen[-100:], seen[-10:]
        truth, guess = [t for t, _ in long], [g for _, g in long]
        single = len(set(truth)) < 2 or len(set(guess)) < 2
        mcc = 0.0 if single else max(0.0, float(matthews_corrcoef(truth, guess)))
        acc = sum(t == g for t, g in short) / len(short)
        rewards.append((0.5 * mcc + 0.5 * acc) ** 3)
    return sum(rewards) / len(rewards)


class TestAugrc:
    @pytest.mark.parametrize(
        ("confidence", "correct", "area"),
        [
            (np.zeros(N), ALTERNATING, 0.25),
            (ALTERNATING, ALTERNATING, 0.125),
            (1 - ALTERNATING, ALTERNATING, 0.375),
            (RAMP, ALTERNATING, 0.2475),
            (RAMP, RAMP, 0.1658333333),
            (PLATEAUS, ALTERNATING, 0.2475),
            (PLATEAUS, RAMP, 0.1710858586),
            (RAMP, np.ones(N), 0.0),
            (RAMP, np.zeros(N), 0.5),
        ],
    )
    def test_published_cases(
        self, confidence: NDArray[np.floating], correct: NDArray[np.floating], area: float
    ) -> None:
        assert area_under_generalized_risk(confidence, 1.0 - correct) == pytest.approx(area, abs=1e-9)

    @given(RANKED)
    def test_is_the_definition(self, rows: list[tuple[int, int]]) -> None:
        confidence, losses = np.array(rows, np.float64).T
        expected = augrc_point_by_point(confidence, losses)
        assert area_under_generalized_risk(confidence, losses) == pytest.approx(expected)

    @given(RANKED)
    def test_is_the_closed_form_of_a_detector_of_errors(self, rows: list[tuple[int, int]]) -> None:
        confidence, correct = np.array(rows, np.float64).T
        share = correct.mean()
        auroc = 0.5 if share in {0.0, 1.0} else roc_auc_score(correct, confidence)
        expected = (1 - auroc) * share * (1 - share) + (1 - share) ** 2 / 2
        assert area_under_generalized_risk(confidence, 1 - correct) == pytest.approx(expected)

    @given(RANKED, st.randoms(use_true_random=False))
    def test_order_of_rows_and_scale_of_confidence_do_not_matter(
        self, rows: list[tuple[int, int]], shuffler: object
    ) -> None:
        confidence, losses = np.array(rows, np.float64).T
        order = list(range(len(rows)))
        shuffler.shuffle(order)  # type: ignore[attr-defined]
        expected = area_under_generalized_risk(confidence, losses)
        assert area_under_generalized_risk(confidence[order], losses[order]) == pytest.approx(expected)
        assert area_under_generalized_risk(np.exp(confidence) - 9, losses) == pytest.approx(expected)

    @given(RANKED)
    def test_telling_ties_apart_rightly_only_lowers_it(self, rows: list[tuple[int, int]]) -> None:
        confidence, losses = np.array(rows, np.float64).T
        apart = area_under_generalized_risk(confidence - losses / 2, losses)
        assert apart <= area_under_generalized_risk(confidence, losses) + 1e-12

    def test_nothing_has_no_risk(self) -> None:
        assert area_under_generalized_risk(np.zeros(0), np.zeros(0)) == 0.0


class TestAgreement:
    @given(LABELS)
    def test_matthews_is_sklearns(self, rows: list[tuple[int, int]]) -> None:
        labels, predictions = np.array(rows, np.int8).reshape(-1, 2).T
        constant = len(set(labels.tolist())) < 2 or len(set(predictions.tolist())) < 2
        expected = 0.0 if constant else matthews_corrcoef(labels, predictions)
        assert matthews_correlation(labels, predictions) == pytest.approx(expected, abs=1e-12)

    @given(LABELS)
    def test_accuracy_is_the_share_of_equals(self, rows: list[tuple[int, int]]) -> None:
        labels, predictions = np.array(rows, np.int8).reshape(-1, 2).T
        assert accuracy(labels, predictions) == pytest.approx(sum(a == b for a, b in rows) / max(1, len(rows)))


class TestReward:
    @pytest.mark.parametrize(
        ("probability", "guess"),
        [(0.0, 0), (0.5, 0), (np.nextafter(0.5, 1), 1), (0.5000005, 1), (1.0, 1), (np.nextafter(0.5, 0), 0)],
    )
    def test_validators_round_half_to_zero(self, probability: float, guess: int) -> None:
        assert rounded([probability]).tolist() == [guess] == [int(np.round(probability))]

    @pytest.mark.parametrize("seed", range(4))
    def test_is_the_validators_sum(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 230)
        answers = np.where(rng.random(230) < 0.1, -1.0, np.clip(rng.normal(labels * 0.6 + 0.2, 0.3), 0, 1))
        expected = reward_literally(labels.tolist(), answers.tolist())
        assert subnet_reward(labels, answers) == pytest.approx(expected)

    def test_of_always_right_is_near_one_and_of_always_wrong_is_zero(self) -> None:
        labels = np.arange(400) % 2
        assert subnet_reward(labels, labels.astype(float)) > 0.99
        assert subnet_reward(labels, 1.0 - labels) == 0.0

    def test_of_one_class_is_an_eighth(self) -> None:
        assert subnet_reward(np.ones(50, int), np.ones(50)) == pytest.approx(0.125)

    def test_of_silence_is_zero(self) -> None:
        assert subnet_reward(np.array([0, 1]), np.array([-1.0, -1.0])) == 0.0
        assert subnet_reward(np.zeros(0, int), np.zeros(0)) == 0.0

    def test_silence_costs_its_own_challenge_and_leaves_the_windows(self) -> None:
        labels = np.arange(200) % 2
        answers = labels.astype(float)
        answers[50:60] = -1.0
        without = np.delete(labels, slice(50, 60))
        expected = subnet_reward(without, without.astype(float)) * 190 / 200
        assert subnet_reward(labels, answers) == pytest.approx(expected)

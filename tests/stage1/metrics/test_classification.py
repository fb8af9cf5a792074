from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import matthews_corrcoef

from stage1.metrics.classification import accuracy, matthews_correlation
from stage1.metrics.reward import rounded, subnet_reward

LABELS = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=60)


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
        assert subnet_reward(labels, answers) == pytest.approx(expected, abs=1e-12)

    @given(
        st.lists(st.tuples(st.integers(0, 1), st.sampled_from([-1.0, 0.0, 0.5, 0.6, 1.0])), min_size=1, max_size=130)
    )
    def test_is_the_validators_sum_of_any_stream(self, rows: list[tuple[int, float]]) -> None:
        labels, answers = [label for label, _ in rows], [answer for _, answer in rows]
        expected = reward_literally(labels, answers)
        assert subnet_reward(np.array(labels), np.array(answers)) == pytest.approx(expected, abs=1e-12)

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

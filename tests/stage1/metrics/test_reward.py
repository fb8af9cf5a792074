"""The reward of subnet 72: short streams whose rewards are worked out by hand, and any stream against a slow oracle.

Below, R = (MCC / 2 + accuracy / 2) cubed.
"""

from __future__ import annotations

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, matthews_corrcoef, precision_score, roc_auc_score

from stage1.metrics.reward import challenge_rewards, rounded, subnet_reward
from tests.support.reward_oracle import rewards_of, score_of

NAN = math.nan
LATE = -1.0
IN_TURN = [0, 1] * 60

# Labels, answers, and the rewards of the last challenges.
BY_HAND: dict[str, tuple[list[int], list[float], list[float]]] = {
    # After the first there is one class: MCC 0, accuracy 1, R = (1/2)^3. Then both are 1.
    "all right": ([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.8], [1 / 8, 1, 1, 1]),
    # Accuracy 0, and an MCC of -1 is floored at 0.
    "all wrong": ([0, 1, 0, 1], [0.9, 0.1, 0.8, 0.2], [0, 0, 0, 0]),
    # MCC of one class is 0: never more than (1/2)^3.
    "one class, all right": ([1, 1, 1], [0.9, 0.8, 0.7], [1 / 8, 1 / 8, 1 / 8]),
    # One answer for everything: MCC 0, and of both classes half is right, R = (1/4)^3.
    "one answer": ([0, 1], [0.2, 0.3], [1 / 8, 1 / 64]),
    # A half is rounded to the even number 0: right for 0, wrong for 1.
    "halves": ([0, 1], [0.5, 0.5], [1 / 8, 1 / 64]),
    "just above a half": ([0, 1], [0.5, 0.5000001], [1 / 8, 1]),
    # It earns 0 and is no part of what comes later: of 0 and 1 both are right.
    "one -1": ([0, 1, 1, 0], [0.1, -1, 0.9, 0.1], [1 / 8, 0, 1, 1]),
    # Late answers are the same. After the third the labels that count are 0, 0: MCC 0.
    "one late": ([0, 1, 0, 1], [0.1, LATE, 0.1, 0.9], [1 / 8, 0, 1 / 8, 1]),
    "all -1": ([0, 1], [-1, -1], [0, 0]),
    # One wrong, nine of -1, one right. The last ten are the nine and the right one: accuracy 1. If -1 took no place in
    # the window it would be 1/2 and R = 1/64.
    "-1 takes a place": ([0] * 11, [0.9, *[-1.0] * 9, 0.1], [0, 1 / 8]),
    # Metrics cannot be computed of NaN. It is one of the last ten for ten challenges: the eleventh has accuracy 1, but
    # MCC 0 still.
    "NaN": (IN_TURN[:11], [NAN, *map(float, IN_TURN[1:11])], [*[0] * 10, 1 / 8]),
    # The 101st has lost it.
    "NaN, long ago": (IN_TURN[:101], [NAN, *map(float, IN_TURN[1:101])], [1 / 8, 1 / 8, 1]),
    # First one wrong. TP 5, FP 1, TN 4, FN 0: MCC = 20 / sqrt(6 * 5 * 5 * 4) = 0.816497 and accuracy 0.9, so that R is
    # the cube of 0.408248 + 0.45.
    "exactly ten": (IN_TURN[:10], [1.0, *map(float, IN_TURN[1:10])], [0.632177]),
    # It has left the ten: accuracy 1. TP 5, FP 1, TN 5, FN 0: MCC = 25 / 30, R = (5/12 + 1/2)^3.
    "eleven": (IN_TURN[:11], [1.0, *map(float, IN_TURN[1:11])], [(11 / 12) ** 3]),
    # TP 50, FP 1, TN 49, FN 0: MCC = 49 / sqrt(51 * 49) = 0.980196, R = (0.490098 + 0.5)^3.
    "exactly a hundred": (IN_TURN[:100], [1.0, *map(float, IN_TURN[1:100])], [0.970587]),
    # The wrong one has left both windows.
    "a hundred and one": (IN_TURN[:101], [1.0, *map(float, IN_TURN[1:101])], [1]),
    # Right, wrong, right, wrong. Third: TP 1, FP 1, TN 1: MCC = 1 / 2, accuracy 2/3, R = (1/4 + 1/3)^3. Fourth: MCC 0.
    "in turn": ([0, 0, 1, 1], [0.1, 0.9, 0.9, 0.1], [1 / 8, 1 / 64, (7 / 12) ** 3, 1 / 64]),
    # Outside [0, 1] it earns 0, and counts as what it rounds to: 1.25 as 1, -0.25 as 0.
    "penalty": ([0, 1, 1], [0.1, 1.25, 0.9], [1 / 8, 0, 1]),
    "penalty below": ([1, 0, 0], [0.9, -0.25, 0.1], [1 / 8, 0, 1]),
    # 1.75 rounds to 2, which is no class.
    "no class": ([0, 1, 1], [0.1, 1.75, 0.9], [1 / 8, 0, 0]),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_a_short_stream_is_paid_as_worked_out_by_hand(case: str) -> None:
    labels, answers, expected = BY_HAND[case]
    paid = challenge_rewards(np.array(labels), np.array(answers, float)).reward
    assert paid[-len(expected) :] == pytest.approx(expected, abs=1e-6)
    assert rewards_of(labels, answers)[-len(expected) :] == pytest.approx(expected, abs=1e-6)


def test_the_score_is_a_moving_average_that_begins_at_0() -> None:
    """0.05 * 1/8, then 0.05 * 1 + 0.95 * 0.00625."""
    score = challenge_rewards(np.array([0, 1]), np.array([0.1, 0.9])).score
    assert score == pytest.approx([0.00625, 0.0559375])


ANSWERS = st.sampled_from([-1.0, 0.0, 0.3, 0.5, 0.6, 1.0, -0.25, 1.25])
STREAMS = st.lists(st.tuples(st.integers(0, 1), ANSWERS), max_size=240)
STRANGE = st.lists(
    st.tuples(st.integers(0, 1), st.one_of(ANSWERS, st.sampled_from([NAN, math.inf, 1.75, -1.5]))), max_size=130
)


def columns(rows: list[tuple[int, float]]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    return np.array([label for label, _ in rows], int), np.array([answer for _, answer in rows], float)


@given(st.one_of(STREAMS, STRANGE))
def test_any_stream_is_paid_as_the_oracle_pays_it(rows: list[tuple[int, float]]) -> None:
    labels, answers = columns(rows)
    paid = challenge_rewards(labels, answers)
    expected = rewards_of(labels.tolist(), answers.tolist())
    assert paid.reward == pytest.approx(expected, abs=1e-12)
    assert subnet_reward(labels, answers) == pytest.approx(sum(expected) / max(1, len(rows)), abs=1e-12)
    if rows:
        assert paid.score[-1] == pytest.approx(score_of(labels.tolist(), answers.tolist()), abs=1e-12)


def scikit_metrics(labels: list[int], answers: list[float]) -> tuple[float, float]:
    """The calls of scikit-learn that validators make, and what they do if one fails."""
    kept = [place for place, answer in enumerate(answers) if answer != -1]
    truth, probabilities = np.array([labels[p] for p in kept]), np.array([answers[p] for p in kept])
    if len(kept) == 0:
        return 0.0, 0.0
    try:
        accuracy = float(accuracy_score(truth, np.round(probabilities)))
        precision_score(truth, np.round(probabilities), zero_division=0)
        both = len(np.unique(truth)) > 1 and len(np.unique(np.round(probabilities))) > 1
        mcc = max(0.0, float(matthews_corrcoef(truth, np.round(probabilities)))) if both else 0.0
        if len(np.unique(truth)) > 1:
            roc_auc_score(truth, probabilities)
    except ValueError:
        return 0.0, 0.0
    return mcc, accuracy


@given(st.lists(st.tuples(st.integers(0, 1), st.one_of(ANSWERS, st.just(NAN))), max_size=40))
def test_metrics_are_those_of_scikit_learn_as_validators_ask_for_them(rows: list[tuple[int, float]]) -> None:
    labels, answers = columns(rows)
    paid = challenge_rewards(labels, answers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for end in range(1, len(rows) + 1):
            mcc, _ = scikit_metrics(labels[:end].tolist(), answers[:end].tolist())
            _, accuracy = scikit_metrics(
                labels[max(0, end - 10) : end].tolist(), answers[max(0, end - 10) : end].tolist()
            )
            assert (paid.mcc[end - 1], paid.accuracy[end - 1]) == pytest.approx((mcc, accuracy), abs=1e-12)


def test_an_answer_of_no_class_fails_in_scikit_learn_too() -> None:
    assert scikit_metrics([0, 1, 1], [0.1, 1.75, 0.9]) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("probability", "guess"),
    [(0.0, 0), (0.5, 0), (np.nextafter(0.5, 1), 1), (0.5000005, 1), (1.0, 1), (np.nextafter(0.5, 0), 0)],
)
def test_validators_round_half_to_zero(probability: float, guess: int) -> None:
    assert rounded([probability]).tolist() == [guess] == [int(np.round(probability))]


def test_of_always_right_is_near_one_and_of_always_wrong_is_zero() -> None:
    labels = np.arange(400) % 2
    assert subnet_reward(labels, labels.astype(float)) > 0.99
    assert subnet_reward(labels, 1.0 - labels) == 0.0


def test_of_nothing_is_zero() -> None:
    assert subnet_reward(np.zeros(0, int), np.zeros(0)) == 0.0
    assert len(challenge_rewards(np.zeros(0, int), np.zeros(0)).score) == 0


def test_silence_costs_its_own_challenges_alone_if_everything_else_is_right() -> None:
    labels = np.arange(200) % 2
    answers = labels.astype(float)
    answers[50:60] = -1.0
    paid = challenge_rewards(labels, answers).reward
    assert (paid[50:60] == 0).all()
    # All of the last ten are silent, so the next one has the accuracy of itself alone.
    assert paid[60:] == pytest.approx(np.ones(140))


def test_one_wrong_answer_among_right_ones_costs_less_with_every_challenge() -> None:
    labels = np.arange(120) % 2
    answers = labels.astype(float)
    answers[0] = 1.0
    mcc = challenge_rewards(labels, answers).mcc
    assert all(later >= earlier for earlier, later in pairwise(mcc[1::2].tolist()))
    assert (mcc[100:] == 1).all()


def test_several_streams_are_paid_as_each_alone() -> None:
    rng = np.random.default_rng(8)
    labels, answers = rng.integers(0, 2, (2, 3, 250)), rng.choice([-1.0, 0.1, 0.9, 1.2], (2, 3, 250))
    together = challenge_rewards(labels, answers).reward
    for place in np.ndindex(2, 3):
        assert np.array_equal(together[place], challenge_rewards(labels[place], answers[place]).reward)

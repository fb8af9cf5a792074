"""The whole cascade on the test rows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import matthews_corrcoef

from offline.evaluation.cascade_curve import CurveSettings, Stage1Answers, WholeCascade, whole_cascade
from offline.evaluation.stage2_answers import RowScores
from stage1.decisions import Decisions
from stage1.metrics.reward import challenge_rewards

QUICK = CurveSettings(repetitions=40, seed=3)


def decided(exit_label: NDArray[np.int8]) -> Decisions:
    return Decisions.from_exit_labels(exit_label, np.zeros(len(exit_label), bool))


def stage1(rows: int = 400, *, accuracy: float = 0.75, seed: int = 0) -> Stage1Answers:
    """A Stage-1 that is right about this share, and surer where it is right; the surest half is certified."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.4).astype(np.int8)
    right = rng.random(rows) < accuracy
    confidence = rng.random(rows) + 0.3 * right
    probability = np.where(right == (labels == 1), 0.8, 0.2)
    likelier = (probability > 0.5).astype(np.int8)
    certified = np.where(confidence >= np.median(confidence), likelier, np.int8(-1)).astype(np.int8)
    softmax = np.where(confidence >= np.quantile(confidence, 0.2), likelier, np.int8(-1)).astype(np.int8)
    groups = np.array([f"drive {n // 4}" for n in range(rows)])
    return Stage1Answers(labels, groups, probability, confidence, decided(certified), decided(softmax))


def scores(score: NDArray[np.float64], asked: NDArray[np.bool_] | None = None, price: float = 0.002) -> RowScores:
    count = len(score)
    asked = np.ones(count, bool) if asked is None else asked
    return RowScores(asked, np.where(asked, score, np.nan), np.full(count, 40.0), np.full(count, price))


def oracle(rows: Stage1Answers) -> NDArray[np.float64]:
    return np.where(rows.labels == 1, 0.9, 0.1)


def joined(
    rows: Stage1Answers, stage2: NDArray[np.float64], known: RowScores | None = None, settings: CurveSettings = QUICK
) -> WholeCascade:
    found = whole_cascade(
        rows, known or scores(stage2), stage2, server="yolo", model="yolox 1", select_rows=100, settings=settings
    )
    assert found is not None
    return found


def test_the_ends_of_the_curve_are_the_two_stages_alone() -> None:
    rows = stage1()
    stage2 = np.where(np.random.default_rng(1).random(400) < 0.9, oracle(rows), 1 - oracle(rows))
    found = joined(rows, stage2)
    first, last = found.curve[0], found.curve[-1]
    assert (first.exit_coverage, last.exit_coverage) == (0.0, 1.0)
    assert first.accuracy.value == pytest.approx(((stage2 > 0.5) == rows.labels).mean())
    assert last.accuracy.value == pytest.approx(((rows.probability > 0.5) == rows.labels).mean())
    assert first.accuracy == found.point("all_to_stage2").accuracy
    assert last.reward == found.point("none").reward
    assert np.all(np.diff([one.exit_coverage for one in found.curve]) > 0)


def test_a_point_counts_the_answers_that_would_be_given() -> None:
    rows = stage1()
    stage2 = np.where(np.random.default_rng(1).random(400) < 0.9, oracle(rows), 1 - oracle(rows))
    exits = rows.certified.exits
    answers = np.where(exits, rows.certified.exit_label == 1, stage2 > 0.5)
    point, truth = joined(rows, stage2).point("certified"), rows.labels == 1
    assert point.exit_coverage == pytest.approx(exits.mean())
    assert point.accuracy.value == pytest.approx((answers == truth).mean())
    assert point.mcc.value == pytest.approx(matthews_corrcoef(truth, answers))
    assert point.misses.value == pytest.approx((~answers[truth]).mean())
    assert point.false_alarms.value == pytest.approx(answers[~truth].mean())
    assert point.gained.value == 0.0
    assert point.stage2_ms == pytest.approx(40.0 * (~exits).mean())
    assert point.stage2_ms_p99 == 40.0
    assert point.cost == pytest.approx(0.002 * 1000 * (~exits).mean())
    assert point.accuracy.lower is not None
    assert point.accuracy.lower < (answers == truth).mean()


def test_the_reward_is_that_of_the_subnet() -> None:
    rows = stage1(200)
    found = joined(rows, oracle(rows), settings=CurveSettings(repetitions=0))
    rng = np.random.default_rng(11)
    answers = (rows.probability > 0.5).astype(np.float64)
    paid = [challenge_rewards(rows.labels[o], answers[o]).mean for o in (rng.permutation(200) for _ in range(100))]
    assert found.point("none").reward.value == pytest.approx(np.mean(paid), abs=0.01)
    assert found.point("all_to_stage2").reward.value == pytest.approx(1.0, abs=0.02)
    assert found.point("none").reward.lower is None


def test_what_stage_2_cannot_answer_is_answered_by_stage_1_and_what_it_was_never_asked_is_left_out() -> None:
    rows = stage1()
    stage2 = oracle(rows)
    refused, unasked = np.arange(400) < 40, np.arange(400) >= 350
    stage2[refused | unasked] = np.nan
    found = joined(rows, stage2, scores(stage2, ~unasked))
    assert (found.rows, found.refused, found.unasked) == (350, 40, 50)
    wrong = ((rows.probability > 0.5) != rows.labels)[:40].sum()
    assert found.point("all_to_stage2").accuracy.value == pytest.approx(1 - wrong / 350)
    nothing = scores(stage2, np.zeros(400, bool))
    assert whole_cascade(rows, nothing, stage2, server="s", model="m", select_rows=0) is None


def test_a_better_stage_2_makes_exits_dear_and_a_coin_makes_them_worth_it() -> None:
    rows = stage1()
    good, coin = joined(rows, oracle(rows)), joined(rows, np.random.default_rng(2).random(400))
    assert good.best.name == "all_to_stage2"
    assert good.slope.value is not None
    assert good.slope.value < 0
    assert coin.best.name in {"none", "softmax"}
    assert coin.slope.value is not None
    assert coin.slope.value > 0
    assert good.deferred is not None
    assert coin.deferred is not None
    assert good.deferred.gained.lower is not None
    assert good.deferred.gained.lower > 0
    assert coin.deferred.rows == 200
    assert coin.deferred.gained.value == pytest.approx(
        (coin.deferred.stage2.value or 0) - (coin.deferred.stage1.value or 0)
    )


def test_the_same_rows_say_the_same_and_without_a_price_there_is_no_cost() -> None:
    rows = stage1(120)
    free = scores(oracle(rows), price=float("nan"))
    assert joined(rows, oracle(rows), free) == joined(rows, oracle(rows), free)
    assert joined(rows, oracle(rows), free).point("certified").cost is None


def test_where_everything_exits_nothing_is_compared_on_hand_offs() -> None:
    rows = stage1(120)
    everything = Stage1Answers(
        rows.labels,
        rows.groups,
        rows.probability,
        rows.confidence,
        decided((rows.probability > 0.5).astype(np.int8)),
        rows.softmax,
    )
    found = joined(everything, oracle(rows))
    assert found.deferred is None
    assert found.point("certified").exit_coverage == 1.0

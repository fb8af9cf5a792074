from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from stage1.decisions import Decisions
from stage1.metrics.reliability import (
    LEAST_PROBABILITY,
    brier,
    expected_calibration_error,
    negative_log_likelihood,
    reliability,
)
from stage1.metrics.risk_coverage import (
    Column,
    Ranking,
    RiskCoverage,
    _area,
    _classes,
    augrc,
    augrc_balanced,
    aurc,
    auroc_of_failures,
    average_set_size,
    coverage_at_risk,
    excess_augrc,
    excess_aurc,
    miss_rate_curve,
    risk_at_coverage,
)

Doubles = NDArray[np.float64]
ERRORS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=60)
LOSSES = st.lists(st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.25, 0.7, 1.0])), min_size=1, max_size=60)
WEIGHED = st.lists(
    st.tuples(st.integers(0, 6), st.sampled_from([0.0, 0.25, 1.0]), st.integers(0, 3)), min_size=1, max_size=40
)

N = 100
ALTERNATING = np.arange(N) % 2
RAMP = np.linspace(0, 1, N)
PLATEAUS = np.repeat(np.arange(4), 25)
EXACT = 1e-12


def points(confidence: Doubles, losses: Doubles) -> list[tuple[float, float, float]]:
    """Coverage, selective and generalised risk, threshold by threshold from the highest down."""
    found = []
    for threshold in sorted(set(confidence.tolist()), reverse=True):
        taken = [loss for value, loss in zip(confidence, losses, strict=True) if value >= threshold]
        found.append((len(taken) / len(losses), sum(taken) / len(taken), sum(taken) / len(losses)))
    return found


def areas(confidence: Doubles, losses: Doubles) -> tuple[float, float]:
    """AUGRC and AURC by trapezoids, one after the other."""
    generalized = selective_area = 0.0
    curve = points(confidence, losses)
    before = (0.0, curve[0][1], 0.0)
    for point in curve:
        width = point[0] - before[0]
        selective_area += width * (point[1] + before[1]) / 2
        generalized += width * (point[2] + before[2]) / 2
        before = point
    return generalized, selective_area


def columns(rows: Sequence[tuple[int, float]]) -> tuple[Doubles, Doubles]:
    confidence, losses = np.array(rows, np.float64).T
    return confidence, losses


def aurc_balanced(confidence: Column, losses: Column, labels: Column) -> float:
    """AURC where the selective risk is the mean over the classes of the mean loss among their answered rows.

    A class without answered rows has risk 0 there.

    Args:
        confidence: see `augrc`.
        losses: see `augrc`.
        labels: true class of each row, `(N,)`.
    """
    ranking = Ranking.of(confidence, losses)
    classes, index, _ = _classes(labels, len(ranking))
    risk = np.zeros(len(ranking.starts))
    for number in range(len(classes)):
        mass, lost = ranking._tied(index == number)
        answered = np.cumsum(mass)
        risk += np.cumsum(lost) / np.maximum(answered, 1) / len(classes)
    return _area(np.append(ranking.starts[1:], len(ranking)) / len(ranking), risk)


def augrc_from_auroc(accuracy: float, auroc: float) -> float:
    """AUGRC of errors in closed form: (1 - AUROC) a (1 - a) + (1 - a)^2 / 2.

    Args:
        accuracy: share of right answers, a.
        auroc: see `auroc_of_failures`; of no consequence where all answers are right, or all wrong.
    """
    mixed = accuracy * (1 - accuracy)
    return ((1 - auroc) * mixed if mixed else 0.0) + (1 - accuracy) ** 2 / 2


class TestAreas:
    @pytest.mark.parametrize(
        ("confidence", "correct", "generalized", "selective_area"),
        [
            (np.zeros(N), ALTERNATING, 0.25, 0.5),
            (ALTERNATING, ALTERNATING, 0.125, 0.125),
            (1 - ALTERNATING, ALTERNATING, 0.375, 0.875),
            (RAMP, ALTERNATING, 0.2475, 0.4828111258),
            (RAMP, RAMP, 0.1658333333, 0.2475),
            (PLATEAUS, ALTERNATING, 0.2475, 0.4908333333),
            (PLATEAUS, RAMP, 0.1710858586, 0.2632575758),
            (RAMP, np.ones(N), 0.0, 0.0),
            (RAMP, np.zeros(N), 0.5, 1.0),
        ],
    )
    def test_published_cases(
        self, confidence: Doubles, correct: Doubles, generalized: float, selective_area: float
    ) -> None:
        found = augrc(confidence, 1.0 - correct), aurc(confidence, 1.0 - correct)
        # Published to ten digits; the sum over thresholds goes beyond them.
        assert found == pytest.approx((generalized, selective_area), abs=5e-11)
        assert found == pytest.approx(areas(confidence, 1.0 - correct), abs=EXACT)

    def test_exact_values_of_the_published_cases(self) -> None:
        odd_reciprocals = sum(1 / k for k in range(1, N, 2))
        assert aurc(RAMP, 1.0 - ALTERNATING) == pytest.approx((49.75 - odd_reciprocals / 2) / N, abs=EXACT)
        assert augrc(RAMP, 1.0 - ALTERNATING) == pytest.approx(99 / 400, abs=EXACT)
        assert augrc(RAMP, 1.0 - RAMP) == pytest.approx(199 / 1200, abs=EXACT)
        assert aurc(PLATEAUS, 1.0 - ALTERNATING) == pytest.approx(589 / 1200, abs=EXACT)
        assert augrc(PLATEAUS, 1.0 - RAMP) == pytest.approx(271 / 1584, abs=EXACT)
        assert aurc(PLATEAUS, 1.0 - RAMP) == pytest.approx(139 / 528, abs=EXACT)

    def test_balanced_published_case(self) -> None:
        confidence, errors, labels = np.arange(4.0), np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
        assert augrc_balanced(confidence, errors, labels) == pytest.approx(0.3125, abs=EXACT)
        assert aurc_balanced(confidence, errors, labels) == pytest.approx(0.5, abs=EXACT)

    @given(LOSSES)
    def test_are_the_definition(self, rows: list[tuple[int, float]]) -> None:
        confidence, losses = columns(rows)
        expected = areas(confidence, losses)
        assert (augrc(confidence, losses), aurc(confidence, losses)) == pytest.approx(expected, abs=EXACT)
        assert Ranking.of(confidence, losses).augrc() == pytest.approx(expected[0], abs=EXACT)

    @given(LOSSES, st.randoms(use_true_random=False), st.sampled_from([augrc, aurc, excess_augrc, excess_aurc]))
    def test_order_of_rows_and_scale_of_confidence_do_not_matter(
        self, rows: list[tuple[int, float]], shuffler: random.Random, area: Callable[..., float]
    ) -> None:
        confidence, losses = columns(rows)
        order = list(range(len(rows)))
        shuffler.shuffle(order)
        expected = area(confidence, losses)
        assert area(confidence[order], losses[order]) == pytest.approx(expected, abs=EXACT)
        assert area(np.exp(confidence) - 9, losses) == pytest.approx(expected, abs=EXACT)
        assert area(confidence.astype(np.float32), losses) == pytest.approx(expected, abs=EXACT)

    def test_a_hundred_equal_confidences_have_one_value_in_every_order(self) -> None:
        rng = np.random.default_rng(1)
        assert {augrc(np.full(N, 0.7), rng.permutation(ALTERNATING)) for _ in range(20)} == {0.25}

    @given(LOSSES)
    def test_telling_ties_apart_rightly_only_lowers_it(self, rows: list[tuple[int, float]]) -> None:
        confidence, losses = columns(rows)
        assert augrc(confidence - losses / 2, losses) <= augrc(confidence, losses) + EXACT

    @given(ERRORS, st.integers(2, 5))
    def test_balanced_and_plain_agree_where_classes_are_equal(self, rows: list[tuple[int, int]], classes: int) -> None:
        confidence, errors = columns([row for row in rows for _ in range(classes)])
        labels = np.tile(np.arange(classes), len(rows))
        assert augrc_balanced(confidence, errors, labels) == pytest.approx(augrc(confidence, errors), abs=EXACT)
        assert aurc_balanced(confidence, errors, labels) == pytest.approx(aurc(confidence, errors), abs=EXACT)

    def test_a_rare_class_weighs_as_much_as_a_common_one(self) -> None:
        labels = np.repeat([0, 1], [90, 10])
        tied = np.zeros(N)
        assert augrc_balanced(tied, labels == 1, labels) == pytest.approx(0.25)
        assert aurc_balanced(tied, labels == 1, labels) == pytest.approx(0.5)


class TestExcess:
    @given(ERRORS)
    def test_augrc_is_the_closed_form_of_a_detector_of_errors(self, rows: list[tuple[int, int]]) -> None:
        confidence, errors = columns(rows)
        share = 1 - errors.mean()
        auroc = auroc_of_failures(confidence, errors)
        if 0 < share < 1:
            assert auroc == pytest.approx(roc_auc_score(1 - errors, confidence), abs=EXACT)
        else:
            assert np.isnan(auroc)
        assert augrc(confidence, errors) == pytest.approx(augrc_from_auroc(share, auroc), abs=EXACT)

    @given(ERRORS)
    def test_of_errors_is_above_the_best_and_below_the_worst_order(self, rows: list[tuple[int, int]]) -> None:
        confidence, errors = columns(rows)
        share = 1 - errors.mean()
        excess = excess_augrc(confidence, errors)
        assert 0 <= excess <= share * (1 - share) + EXACT
        assert excess == pytest.approx(augrc(confidence, errors) - (1 - share) ** 2 / 2, abs=EXACT)

    @given(LOSSES)
    def test_of_any_loss_is_none_for_the_best_order(self, rows: list[tuple[int, float]]) -> None:
        confidence, losses = columns(rows)
        assert excess_augrc(confidence, losses) >= 0
        assert excess_augrc(-losses, losses) == 0

    def test_aurc_of_a_perfect_ranking_with_ties_is_below_the_curved_optimum(self) -> None:
        found = excess_aurc(ALTERNATING, 1.0 - ALTERNATING)
        assert found == pytest.approx(0.125 - (0.5 + 0.5 * np.log(0.5)), abs=EXACT)
        assert found == pytest.approx(-0.0284, abs=5e-5)

    def test_aurc_of_all_wrong_and_of_all_right_has_no_excess(self) -> None:
        assert excess_aurc(RAMP, np.ones(N)) == pytest.approx(0)
        assert excess_aurc(RAMP, np.zeros(N)) == 0

    def test_aurc_of_a_graded_loss_is_compared_with_its_best_order(self) -> None:
        assert excess_aurc(RAMP, 1 - RAMP) == pytest.approx(0, abs=EXACT)
        assert excess_aurc(-RAMP, 1 - RAMP) == pytest.approx(0.505, abs=1e-12)


class TestCurve:
    @given(LOSSES)
    def test_is_the_definition(self, rows: list[tuple[int, float]]) -> None:
        confidence, losses = columns(rows)
        curve = Ranking.of(confidence, losses).curve()
        found = np.column_stack([curve.coverage, curve.selective_risk, curve.generalized_risk])
        assert found == pytest.approx(np.array(points(confidence, losses)), abs=EXACT)

    @given(WEIGHED)
    def test_a_whole_weight_is_so_many_rows(self, rows: list[tuple[int, float, int]]) -> None:
        confidence, losses, weights = np.array(rows, np.float64).T
        ranking, counts = Ranking.of(confidence, losses), weights.astype(int)
        if not counts.any():
            assert np.isnan([ranking.augrc(counts), ranking.aurc(counts)]).all()
            assert not len(ranking.curve(counts).coverage)
            return
        repeated = Ranking.of(np.repeat(confidence, counts), np.repeat(losses, counts))
        assert ranking.augrc(weights) == pytest.approx(repeated.augrc(), abs=EXACT)
        assert ranking.aurc(counts) == pytest.approx(repeated.aurc(), abs=EXACT)
        for name in RiskCoverage.__dataclass_fields__:
            weighted, plain = getattr(ranking.curve(counts), name), getattr(repeated.curve(), name)
            assert weighted == pytest.approx(plain, abs=EXACT)

    @given(WEIGHED, st.floats(0.1, 9))
    def test_only_the_ratio_of_weights_matters(self, rows: list[tuple[int, float, int]], scale: float) -> None:
        confidence, losses, weights = np.array(rows, np.float64).T
        ranking = Ranking.of(confidence, losses)
        assert ranking.augrc(weights * scale) == pytest.approx(ranking.augrc(weights), abs=EXACT, nan_ok=True)
        assert ranking.aurc(weights * scale) == pytest.approx(ranking.aurc(weights), abs=EXACT, nan_ok=True)

    def test_a_tie_is_answered_whole_or_not_at_all(self) -> None:
        curve = Ranking.of(np.array([0.9, 0.5, 0.5, 0.1]), np.array([0, 1, 0, 1])).curve()
        assert curve.coverage.tolist() == [0.25, 0.75, 1.0]
        assert curve.selective_risk == pytest.approx([0, 1 / 3, 1 / 2])
        assert curve.generalized_risk.tolist() == [0, 0.25, 0.5]

    def test_the_most_that_can_be_answered_within_a_risk(self) -> None:
        curve = Ranking.of(np.arange(10.0), np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 0])).curve()
        assert coverage_at_risk(curve, 0.0) == 0.4
        assert coverage_at_risk(curve, 0.125) == 0.8, "the risk rises above it in between, and falls again"
        assert coverage_at_risk(curve, 1.0) == 1.0
        assert coverage_at_risk(Ranking.of(np.zeros(2), np.ones(2)).curve(), 0.5) == 0.0

    def test_the_risk_of_answering_a_share_is_that_of_the_first_point_that_answers_so_many(self) -> None:
        curve = Ranking.of(np.array([3, 2, 2, 1]), np.array([0, 1, 0, 1])).curve()
        shares = (0.1, 0.25, 0.3, 0.75, 1.0)
        assert [risk_at_coverage(curve, share) for share in shares] == pytest.approx([0, 0, 1 / 3, 1 / 3, 1 / 2])
        with pytest.raises(ValueError, match=r"coverage is 0, expected a number in \(0, 1\]"):
            risk_at_coverage(curve, 0)
        nothing = Ranking.of(np.zeros(2), np.zeros(2)).curve(np.zeros(2))
        assert np.isnan(risk_at_coverage(nothing, 0.5))

    def test_misses_are_counted_among_the_answered_positives(self) -> None:
        labels, predictions = np.array([0, 1, 1, 0, 1]), np.array([0, 0, 1, 1, 0])
        curve = miss_rate_curve(labels, predictions, np.array([5, 4, 3, 2, 1]))
        assert curve.coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
        assert curve.miss_rate == pytest.approx([np.nan, 1, 1 / 2, 1 / 2, 2 / 3], nan_ok=True)
        assert curve.positives.tolist() == [0, 1, 2, 2, 3]

    def test_sets_of_one_and_of_two_labels(self) -> None:
        decisions = Decisions.from_exit_labels(np.array([0, 1, -1, -1], np.int8), np.zeros(4, bool))
        assert average_set_size(decisions) == 1.5
        assert np.isnan(average_set_size(Decisions.from_exit_labels(np.zeros(0, np.int8), np.zeros(0, bool))))


class TestRefusals:
    @pytest.mark.parametrize(
        ("confidence", "losses", "message"),
        [
            ([], [], r"confidence \(0,\) and losses \(0,\) must be two vectors of N > 0 rows"),
            ([1, 2], [0], r"confidence \(2,\) and losses \(1,\)"),
            ([1, np.nan, np.inf], [0, 0, 1], "2 of 3 confidences are NaN or infinite"),
            ([1, 2, 3], [0, np.nan, 1], r"1 of 3 losses are not in \[0, 1\]"),
            ([1, 2, 3], [-0.5, 2, 1], r"2 of 3 losses are not in \[0, 1\]"),
        ],
    )
    @pytest.mark.parametrize("area", [augrc, aurc, excess_augrc, excess_aurc, Ranking.of])
    def test_what_cannot_be_ranked_is_named(
        self, confidence: list[float], losses: list[float], message: str, area: Callable[..., object]
    ) -> None:
        with pytest.raises(ValueError, match=message):
            area(np.array(confidence), np.array(losses))

    def test_a_graded_loss_is_no_failure(self) -> None:
        with pytest.raises(ValueError, match="1 losses are neither 0 nor 1"):
            auroc_of_failures(np.array([1.0, 2.0]), np.array([0.5, 1]))

    @pytest.mark.parametrize("weights", [np.ones(2), np.array([1, -1, 1]), np.array([1, np.nan, 1])])
    def test_weights_are_nonnegative_and_one_a_row(self, weights: Doubles) -> None:
        with pytest.raises(ValueError, match="weights must be 3 nonnegative numbers"):
            Ranking.of(np.arange(3.0), np.zeros(3)).augrc(weights)

    def test_balancing_needs_every_label(self) -> None:
        with pytest.raises(ValueError, match="2 labels for 3 rows"):
            augrc_balanced(np.arange(3.0), np.zeros(3), np.zeros(2, int))

    @pytest.mark.parametrize(
        ("probability", "labels", "message"),
        [
            ([], [], r"probability \(0,\) and labels \(0,\)"),
            ([0.5, 1.5], [0, 1], r"1 of 2 probabilities are not in \[0, 1\]"),
            ([0.5, np.nan], [0, 1], "1 of 2 probabilities"),
            ([0.5, 0.5], [0, 2], "1 of 2 labels are neither 0 nor 1"),
        ],
    )
    @pytest.mark.parametrize("judgement", [reliability, expected_calibration_error, brier, negative_log_likelihood])
    def test_what_was_not_foretold_is_named(
        self, probability: list[float], labels: list[float], message: str, judgement: Callable[..., object]
    ) -> None:
        with pytest.raises(ValueError, match=message):
            judgement(np.array(probability), np.array(labels))


class TestReliability:
    def test_bins_of_equal_width(self) -> None:
        found = reliability(np.array([0.0, 0.05, 0.1, 0.99, 1.0]), np.array([0, 1, 0, 1, 1]))
        assert found.count.tolist() == [2, 1, 2], "an edge belongs to the bin above it, and 1 to the last"
        assert found.probability == pytest.approx([0.025, 0.1, 0.995])
        assert found.observed.tolist() == [0.5, 0.0, 1.0]

    def test_bins_of_equal_mass(self) -> None:
        probability = np.random.default_rng(0).beta(1, 20, 1000)
        found = reliability(probability, np.zeros(1000), 8, equal_mass=True)
        assert found.count.tolist() == [125] * 8

    @pytest.mark.parametrize("equal_mass", [False, True])
    def test_rows_of_one_probability_share_a_bin(self, equal_mass: bool) -> None:
        found = reliability(np.full(50, 0.3), np.arange(50) % 2, equal_mass=equal_mass)
        assert (found.count.tolist(), found.observed.tolist()) == ([50], [0.5])

    @pytest.mark.parametrize("equal_mass", [False, True])
    def test_the_error_of_an_honest_forecast_is_small_and_of_a_boastful_one_large(self, equal_mass: bool) -> None:
        rng = np.random.default_rng(0)
        honest = rng.random(40_000)
        labels = rng.random(40_000) < honest
        assert expected_calibration_error(honest, labels, equal_mass=equal_mass) < 0.01
        boastful = (honest > 0.5).astype(float)
        assert expected_calibration_error(boastful, labels, equal_mass=equal_mass) == pytest.approx(0.25, abs=0.01)

    def test_scores_are_sklearns(self) -> None:
        rng = np.random.default_rng(0)
        probability, labels = rng.random(300), rng.integers(0, 2, 300)
        assert brier(probability, labels) == pytest.approx(brier_score_loss(labels, probability))
        assert negative_log_likelihood(probability, labels) == pytest.approx(log_loss(labels, probability))

    def test_what_was_called_impossible_and_came_costs_a_finite_price(self) -> None:
        price = negative_log_likelihood(np.array([0.0]), np.array([1]))
        assert price == pytest.approx(-np.log(LEAST_PROBABILITY))

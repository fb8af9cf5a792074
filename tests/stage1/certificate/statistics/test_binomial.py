from __future__ import annotations

import itertools
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy.stats import beta, binom

from stage1.certificate.params import MOST_ROWS
from stage1.certificate.statistics.binomial import (
    losses_allowed,
    lower_bound,
    p_value,
    p_values,
    power,
    trials_needed,
    upper_bound,
)

LEVELS = st.floats(0.001, 0.5)


def exact_tail(losses: int, trials: int, alpha: float) -> float:
    """P(Bin(trials, alpha) <= losses) term by term."""
    return float(sum(comb(trials, k) * alpha**k * (1 - alpha) ** (trials - k) for k in range(losses + 1)))


@st.composite
def counts(draw: st.DrawFn, most: int = 3000) -> tuple[int, int]:
    trials = draw(st.integers(1, most))
    return draw(st.integers(0, trials)), trials


class TestPValue:
    @pytest.mark.parametrize("alpha", [0.005, 0.02, 0.2])
    def test_is_right_up_to_as_many_rows_as_a_certificate_may_have(self, alpha: float) -> None:
        spread = np.sqrt(MOST_ROWS * alpha * (1 - alpha))
        losses = np.rint(MOST_ROWS * alpha + np.linspace(-4, 4, 101) * spread).astype(np.int64)
        trials = np.full_like(losses, MOST_ROWS)
        assert np.allclose(p_values(losses, trials, alpha), binom.cdf(losses, MOST_ROWS, alpha), rtol=0, atol=1e-4)

    def test_three_misses_of_three_hundred(self) -> None:
        assert p_value(3, 300, 0.02) == pytest.approx(0.148510, abs=5e-7)

    @given(counts(most=150), LEVELS)
    def test_is_the_binomial_tail(self, count: tuple[int, int], alpha: float) -> None:
        assert p_value(*count, alpha) == pytest.approx(exact_tail(*count, alpha), abs=1e-10)

    def test_nothing_is_certified_without_trials(self) -> None:
        assert p_value(0, 0, 0.02) == 1.0

    @pytest.mark.parametrize(("losses", "trials"), [(0, 114), (3, 300), (0, 149), (2, 265), (1, 77), (10, 768)])
    def test_agrees_with_mapie(self, losses: int, trials: int) -> None:
        theirs = compute_hoeffding_bentkus_p_value(
            np.array([losses / trials]), trials, np.array([0.02]), binary=True
        ).item()
        # MAPIE rebuilds the count as ceil(rate * trials), which a rounding error may raise by one.
        assert theirs == pytest.approx(p_value(losses, trials, 0.02)) or theirs == pytest.approx(
            p_value(losses + 1, trials, 0.02)
        )

    def test_is_super_uniform_at_the_edge_of_the_hypothesis(self) -> None:
        alpha, trials = 0.02, 300
        law = [comb(trials, k) * alpha**k * (1 - alpha) ** (trials - k) for k in range(trials + 1)]
        tails = [p_value(k, trials, alpha) for k in range(trials + 1)]
        for delta in (0.01, 0.05, 0.1, 0.2, 0.5):
            assert sum(mass for mass, tail in zip(law, tails, strict=True) if tail <= delta) <= delta

    @given(counts(), LEVELS)
    def test_falls_with_more_trials_and_rises_with_more_losses(self, count: tuple[int, int], alpha: float) -> None:
        losses, trials = count
        assert p_value(losses, trials + 1, alpha) <= p_value(losses, trials, alpha) + 1e-12
        assert losses == trials or p_value(losses + 1, trials, alpha) >= p_value(losses, trials, alpha)

    @given(st.lists(counts(), min_size=1, max_size=20), LEVELS)
    def test_many_at_once_are_the_same(self, pairs: list[tuple[int, int]], alpha: float) -> None:
        losses, trials = np.array([*pairs, (0, 0)]).T
        assert p_values(losses, trials, alpha).tolist() == [p_value(k, m, alpha) for k, m in [*pairs, (0, 0)]]


class TestBounds:
    @given(counts(), LEVELS, st.floats(0.001, 0.5))
    def test_certified_is_the_same_as_the_upper_bound_being_below_alpha(
        self, count: tuple[int, int], alpha: float, delta: float
    ) -> None:
        p, upper = p_value(*count, alpha), upper_bound(*count, delta)
        assume(abs(p - delta) > 1e-9)
        assume(abs(upper - alpha) > 1e-9)
        assert (p <= delta) == (upper <= alpha)

    @given(counts(), st.floats(0.001, 0.5))
    def test_enclose_the_observed_rate(self, count: tuple[int, int], delta: float) -> None:
        losses, trials = count
        assert 0 <= lower_bound(losses, trials, delta) <= losses / trials <= upper_bound(losses, trials, delta) <= 1

    @given(counts(), st.floats(0.001, 0.5))
    def test_lower_bound_mirrors_the_upper_one(self, count: tuple[int, int], delta: float) -> None:
        successes, trials = count
        mirrored = 1 - upper_bound(trials - successes, trials, delta)
        assert lower_bound(successes, trials, delta) == pytest.approx(mirrored, abs=1e-9)

    def test_say_nothing_without_trials(self) -> None:
        assert (lower_bound(0, 0, 0.1), upper_bound(0, 0, 0.1)) == (0.0, 1.0)

    def test_all_lost_or_all_won_is_open_on_one_side(self) -> None:
        assert upper_bound(7, 7, 0.1) == 1.0
        assert lower_bound(0, 7, 0.1) == 0.0

    @pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.9])
    def test_cover_the_true_rate(self, rate: float) -> None:
        draws = np.random.default_rng(8).binomial(120, rate, 4000)
        for delta in (0.05, 0.1):
            tolerance = 3 * np.sqrt(delta * (1 - delta) / len(draws))
            assert np.mean([upper_bound(int(k), 120, delta) < rate for k in draws]) <= delta + tolerance
            assert np.mean([lower_bound(int(k), 120, delta) > rate for k in draws]) <= delta + tolerance


class TestTrialsNeeded:
    @pytest.mark.parametrize(
        ("alpha", "delta", "needed"),
        [
            (0.02, 0.10, {0: 114, 1: 194, 2: 265, 3: 333, 5: 462, 10: 768, 20: 1349}),
            (0.02, 0.05, {0: 149, 1: 236, 2: 313, 3: 386, 5: 523, 10: 845, 20: 1449}),
            (0.02, 0.01, {0: 228, 1: 330, 2: 418, 3: 499, 5: 652, 10: 1003, 20: 1649}),
            (0.01, 0.10, {0: 230, 1: 388, 2: 531, 5: 926, 10: 1538}),
            (0.01, 0.05, {0: 299, 1: 473, 2: 628, 5: 1049, 10: 1693}),
            (0.05, 0.10, {0: 45, 1: 77, 2: 105, 5: 184, 10: 306}),
            (0.05, 0.05, {0: 59, 1: 93, 2: 124, 5: 208, 10: 336}),
        ],
    )
    def test_table(self, alpha: float, delta: float, needed: dict[int, int]) -> None:
        assert {losses: trials_needed(losses, alpha, delta) for losses in needed} == needed

    @given(st.integers(0, 30), LEVELS, st.floats(0.001, 0.9))
    def test_is_the_smallest_that_certifies(self, losses: int, alpha: float, delta: float) -> None:
        needed = trials_needed(losses, alpha, delta)
        assert p_value(losses, needed, alpha) <= delta < p_value(losses, needed - 1, alpha)

    def test_a_miss_more_takes_more_trials(self) -> None:
        needed = [trials_needed(losses, 0.02, 0.1) for losses in range(10)]
        assert all(a < b for a, b in itertools.pairwise(needed))


class TestLossesAllowed:
    @pytest.mark.parametrize(("trials", "allowed"), [(113, -1), (114, 0), (300, 2), (500, 5), (1000, 13), (3000, 49)])
    def test_table(self, trials: int, allowed: int) -> None:
        assert losses_allowed(trials, 0.02, 0.10) == allowed

    @given(st.integers(0, 2000), LEVELS, st.floats(0.001, 0.9))
    def test_is_the_most_that_certifies(self, trials: int, alpha: float, delta: float) -> None:
        allowed = losses_allowed(trials, alpha, delta)
        assert allowed < 0 or p_value(allowed, trials, alpha) <= delta
        assert allowed == trials - 1 or p_value(allowed + 1, trials, alpha) > delta


class TestPower:
    @pytest.mark.parametrize(
        ("trials", "expected"),
        [
            (150, {0.002: 0.74, 0.005: 0.47, 0.0075: 0.32, 0.01: 0.22, 0.015: 0.10}),
            (300, {0.002: 0.98, 0.005: 0.81, 0.0075: 0.61, 0.01: 0.42, 0.015: 0.17}),
            (500, {0.002: 1.0, 0.005: 0.96, 0.0075: 0.82, 0.01: 0.62, 0.015: 0.24}),
            (1000, {0.005: 1.0, 0.0075: 0.98, 0.01: 0.87, 0.015: 0.36}),
            (2000, {0.005: 1.0, 0.0075: 1.0, 0.01: 0.99, 0.015: 0.62}),
        ],
    )
    def test_table(self, trials: int, expected: dict[float, float]) -> None:
        found = {rate: power(trials, rate, 0.02, 0.10) for rate in expected}
        assert found == pytest.approx(expected, abs=0.006)

    def test_is_none_where_nothing_can_be_certified(self) -> None:
        assert power(113, 0.0001, 0.02, 0.10) == 0.0

    def test_is_how_often_a_draw_is_certified(self) -> None:
        draws = np.random.default_rng(3).binomial(400, 0.008, 20_000)
        certified = np.mean([p_value(int(k), 400, 0.02) <= 0.1 for k in draws])
        assert power(400, 0.008, 0.02, 0.10) == pytest.approx(certified, abs=0.01)


@given(trials=st.integers(1, 3000), share=st.floats(0, 1), level=st.floats(0.001, 0.5))
def test_bounds_and_p_values_agree_with_scipys_distributions(trials: int, share: float, level: float) -> None:
    events = round(share * trials)
    assert p_value(events, trials, level) == pytest.approx(binom.cdf(events, trials, level), abs=1e-10)
    if events < trials:
        upper = beta.ppf(1 - level, events + 1, trials - events)
        assert upper_bound(events, trials, level) == pytest.approx(upper, abs=1e-9)
    if events > 0:
        assert lower_bound(events, trials, level) == pytest.approx(
            beta.ppf(level, events, trials - events + 1), abs=1e-9
        )

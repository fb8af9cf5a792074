from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1.metrics.bootstrap import (
    Difference,
    Interval,
    bootstrap,
    curve_band,
    group_weights,
    interval,
    paired_difference,
    rate,
)
from stage1.metrics.risk_coverage import Ranking, augrc, risk_at_coverage

Doubles = NDArray[np.float64]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def rows_of(names: list[str], groups: list[str]) -> list[int]:
    """Rows of the groups that were drawn, one after the other and as often as they were."""
    return [row for name in names for row, group in enumerate(groups) if group == name]


class TestWeights:
    def test_rows_of_a_group_are_drawn_together_and_as_many_groups_as_there_are(self) -> None:
        groups = ["a", "b", "a", "c", "b", "a"]
        for weights in group_weights(groups, 50, rng()):
            by_group = {name: {w for w, g in zip(weights, groups, strict=True) if g == name} for name in "abc"}
            assert all(len(values) == 1 for values in by_group.values())
            assert sum(values.pop() for values in by_group.values()) == 3

    def test_every_group_is_drawn_once_on_average(self) -> None:
        mean = np.mean(list(group_weights([str(row % 7) for row in range(20)], 4000, rng())), axis=0)
        assert mean == pytest.approx(np.ones(20), abs=0.06)

    def test_the_seed_decides(self) -> None:
        groups = list("aabbccdd")
        first, again, other = (np.stack(list(group_weights(groups, 9, rng(seed)))) for seed in (1, 1, 2))
        assert (first == again).all()
        assert (first != other).any()

    def test_groups_may_be_numbers(self) -> None:
        numbers, names = (list(group_weights(g, 9, rng())) for g in (np.array([3, 1, 3]), ["c", "a", "c"]))
        assert np.array_equal(numbers, names)

    def test_nothing_cannot_be_drawn(self) -> None:
        with pytest.raises(ValueError, match="no rows to draw from"):
            next(group_weights([], 1, rng()))


class TestBootstrap:
    def test_is_the_statistic_of_the_rows_drawn_again(self) -> None:
        groups = [str(row // 3) for row in range(30)]
        confidence, errors = rng(1).integers(0, 9, 30).astype(float), rng(2).integers(0, 2, 30)
        samples = bootstrap(Ranking.of(confidence, errors).augrc, groups, 40, rng(3))
        names = sorted(set(groups))
        draws = rng(3)
        for sample in samples[:, 0]:
            rows = rows_of([names[i] for i in draws.integers(len(names), size=len(names))], groups)
            assert sample == pytest.approx(augrc(confidence[rows], errors[rows]), abs=1e-12)

    def test_several_statistics_share_the_draws(self) -> None:
        samples = bootstrap(lambda weights: [weights[0], weights[3], weights[0]], list("aabb"), 30, rng())
        assert samples.shape == (30, 3)
        assert (samples[:, 0] == samples[:, 2]).all()
        assert (samples[:, 0] + samples[:, 1] == 2).all()

    def test_a_rate_is_counted_among_its_condition(self) -> None:
        condition, loss = np.array([True, True, False, True]), np.array([True, False, True, False])
        share = rate(condition, loss)
        assert share(np.ones(4)) == pytest.approx(1 / 3)
        assert share(np.array([2.0, 1, 5, 0])) == pytest.approx(2 / 3)
        assert np.isnan(share(np.array([0.0, 0, 5, 0])))

    def test_agrees_with_the_textbook_error_of_a_mean(self) -> None:
        errors = rng(1).random(400) < 0.2
        samples = bootstrap(rate(np.ones(400, bool), errors), np.arange(400), 2000, rng())
        assert samples.std() == pytest.approx(np.sqrt(errors.mean() * (1 - errors.mean()) / 400), rel=0.06)


class TestInterval:
    def test_leaves_as_much_out_below_as_above(self) -> None:
        found = interval(np.arange(101.0), 0.9)
        assert (found.lower, found.upper, found.undefined) == pytest.approx((5, 95, 0))

    def test_replicates_without_the_statistic_are_counted_and_left_out(self) -> None:
        found = interval(np.append(np.arange(101.0), [np.nan] * 7), 0.9)
        assert (found.lower, found.upper, found.undefined) == pytest.approx((5, 95, 7))

    def test_of_a_statistic_that_is_never_defined_is_unknown(self) -> None:
        found = interval(np.full(5, np.nan))
        assert np.isnan([found.lower, found.upper]).all()
        assert found.undefined == 5

    def test_a_set_without_positives_in_some_draws_says_so(self) -> None:
        groups, positive = list("aabbcc"), np.array([True, False] + [False] * 4)
        found = interval(bootstrap(rate(positive, positive), groups, 300, rng())[:, 0])
        assert found.undefined / 300 == pytest.approx((2 / 3) ** 3, abs=0.06)
        assert (found.lower, found.upper) == (1, 1)


class TestCoverage:
    def test_drawing_drives_covers_the_truth_where_drawing_frames_does_not(self) -> None:
        """Every drive has its own error rate, and confidence says nothing: the true AUGRC is half the error rate."""
        experiments, drives, frames, truth = 150, 40, 12, 0.15
        covered: Counter[str] = Counter()
        for experiment in range(experiments):
            draw = rng(experiment)
            errors = draw.random(drives * frames) < np.repeat(draw.beta(0.9, 2.1, drives), frames)
            ranking = Ranking.of(draw.random(len(errors)), errors)
            for unit, groups in (("frame", np.arange(len(errors))), ("drive", np.repeat(np.arange(drives), frames))):
                found = interval(bootstrap(ranking.augrc, groups, 120, draw)[:, 0])
                covered[unit] += found.lower <= truth <= found.upper
        assert covered["drive"] / experiments > 0.87
        assert covered["frame"] / experiments < 0.75


@pytest.fixture(scope="module")
def two() -> tuple[Ranking, Ranking, list[str]]:
    """A model and a slightly better one, wrong about the same drives."""
    draw = rng(5)
    groups = [str(row // 10) for row in range(1200)]
    hard = np.repeat(draw.normal(0, 1, 120), 10)
    errors = draw.random(1200) < 1 / (1 + np.exp(2 - hard))
    shared = -hard + draw.normal(0, 1, 1200)
    return (
        Ranking.of(shared + draw.normal(0, 0.3, 1200) - 0.4 * errors, errors),
        Ranking.of(shared + draw.normal(0, 0.3, 1200), errors),
        groups,
    )


class TestDifference:
    def compared(self, two: tuple[Ranking, Ranking, list[str]], level: float = 0.95) -> Difference:
        ours, theirs, groups = two
        return paired_difference(ours.augrc, theirs.augrc, groups, 300, rng(), level)

    def test_is_estimated_on_the_rows_as_they_are(self, two: tuple[Ranking, Ranking, list[str]]) -> None:
        found = self.compared(two)
        assert found.estimate == pytest.approx(two[0].augrc() - two[1].augrc(), abs=1e-12)
        assert found.interval.lower < found.lower < found.estimate < found.interval.upper < 0

    def test_is_narrower_than_that_of_two_samples(self, two: tuple[Ranking, Ranking, list[str]]) -> None:
        ours, theirs, groups = two
        apart = bootstrap(ours.augrc, groups, 300, rng(1)) - bootstrap(theirs.augrc, groups, 300, rng(2))
        unpaired, paired = interval(apart[:, 0]), self.compared(two).interval
        assert paired.upper - paired.lower < (unpaired.upper - unpaired.lower) / 2

    def test_of_a_model_and_itself_is_exactly_none(self, two: tuple[Ranking, Ranking, list[str]]) -> None:
        ours, _, groups = two
        found = paired_difference(ours.augrc, ours.augrc, groups, 20, rng())
        assert found == Difference(0.0, 0.0, Interval(0.0, 0.0, 0))

    def test_a_one_sided_bound_is_the_lower_end_at_twice_the_tail(
        self, two: tuple[Ranking, Ranking, list[str]]
    ) -> None:
        assert self.compared(two, 0.95).lower == pytest.approx(self.compared(two, 0.9).interval.lower)

    def test_replicates_without_either_side_are_left_out(self) -> None:
        first, second = np.array([True, False, False]), np.array([False, True, False])
        found = paired_difference(rate(first, first), rate(second, second), list("abc"), 200, rng())
        assert 0 < found.interval.undefined < 200
        assert (found.estimate, found.lower) == (0, 0)


class TestBand:
    def test_is_the_spread_of_the_curves_of_the_rows_drawn_again(self) -> None:
        confidence, errors = rng(1).random(60), rng(2).random(60) < 0.3
        groups = [str(row // 4) for row in range(60)]
        grid = np.array([0.01, 0.3, 0.65, 1.0])
        band = curve_band(Ranking.of(confidence, errors), groups, grid, 50, rng(3), level=0.8)
        selective, generalized = [], []
        names = sorted(set(groups))
        draws = rng(3)
        for _ in range(50):
            rows = rows_of([names[i] for i in draws.integers(len(names), size=len(names))], groups)
            curve = Ranking.of(confidence[rows], errors[rows]).curve()
            selective.append(np.interp(grid, curve.coverage, curve.selective_risk))
            generalized.append(np.interp(grid, [0, *curve.coverage], [0, *curve.generalized_risk]))
        assert band.selective_lower == pytest.approx(np.quantile(selective, 0.1, axis=0))
        assert band.selective_upper == pytest.approx(np.quantile(selective, 0.9, axis=0))
        assert band.generalized_lower == pytest.approx(np.quantile(generalized, 0.1, axis=0))
        assert band.generalized_upper == pytest.approx(np.quantile(generalized, 0.9, axis=0))

    def test_lies_around_the_curve_and_narrows_with_the_number_of_drives(self) -> None:
        widths = []
        for drives in (50, 800):
            draw = rng(4)
            confidence = draw.random(drives * 3)
            ranking = Ranking.of(confidence, draw.random(drives * 3) > confidence)
            grid = np.linspace(0.2, 1, 9)
            band = curve_band(ranking, np.repeat(np.arange(drives), 3), grid, 200, draw)
            risks = [risk_at_coverage(ranking.curve(), share) for share in grid]
            assert (band.selective_lower <= risks).all()
            assert (risks <= band.selective_upper).all()
            widths.append(np.mean(band.generalized_upper - band.generalized_lower))
        assert widths[1] < widths[0] / 3

"""What is certified on val_calib, in each mode and by each algorithm, and what is said when nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from stage1.certificate.budget import spent_on
from stage1.certificate.calibrate import CalibrationContext, calibrate, obstacle
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Chain, ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.search.algorithms import Claim, walk
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import losses_allowed, lower_bound, p_value, trials_needed, upper_bound
from stage1.certificate.statistics.multiplicity import holm
from stage1.certificate.terms import Terms
from stage1.decisions import Level
from stage1.errors import OutputsError, RowsError
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy

Maker = Callable[..., LabelledOutputs]
Pair = Callable[..., tuple[LabelledOutputs, LabelledOutputs]]
CONTEXT = CalibrationContext("e" * 64, "p" * 64, prior_uses=0, code_version="test")
SMALL = CalibrationSettings(alpha=0.05, grid_size=40, gate_size=5, gate="select_score")
FIRST_USE = 0.1 / 6


def settings_of(**changes: Any) -> CalibrationSettings:
    return CalibrationSettings.model_validate(SMALL.model_dump() | changes)


def of_positives(
    score: NDArray[np.floating], gate_score: NDArray[np.floating], groups: list[str] | None = None
) -> LabelledOutputs:
    """Rows that all show roadwork; negatives have no part in the miss rate."""
    score = score.astype(np.float32)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], axis=1), gate_score.astype(np.float32))
    ids = [f"row {i}" for i in range(len(score))]
    return LabelledOutputs(outputs, np.ones(len(score), np.int8), ids, groups or ids)


def walked(
    data: LabelledOutputs, chain: Chain, *, alpha: float, delta: float = 0.1
) -> tuple[float | None, int, int, int]:
    """Last certified t0, values tested, and the count at that value, or at the first if none is certified."""
    found = walk(data, data.units("row", 0), chain, [Claim(Risk.MISS_EXIT, alpha, delta)])
    at = max(found.certified - 1, 0)
    t0 = chain.grid[at] if found.certified else None
    return t0, found.chain.tested, int(found.counts[0].losses[at]), int(found.counts[0].trials[at])


def walked_by_hand(
    data: LabelledOutputs, chain: Chain, *, alpha: float, delta: float = 0.1
) -> tuple[float | None, int]:
    """The certified t0 and the number of values tested, row by row."""
    certified = None
    for tested, t0 in enumerate(chain.grid, start=1):
        losses = trials = 0
        for label, score, gate in zip(data.labels, data.outputs.roadwork_score, data.outputs.select_score, strict=True):
            if label == 1 and gate >= chain.tau and (score < t0 or score >= chain.t1):
                trials += 1
                losses += score < t0
        if p_value(int(losses), trials, alpha) > delta:
            return certified, tested
        certified = t0
    return certified, len(chain.grid)


def chain_of(*grid: float, tau: float = 0.0, t1: float = 5.0) -> Chain:
    return Chain(tau=tau, t1=t1, grid=grid)


class TestWalk:
    @pytest.mark.parametrize("seed", range(12))
    def test_is_algorithm_b(self, binormal: Maker, seed: int) -> None:
        (chain,) = select(binormal(600, seed=seed), SMALL).chains
        data = binormal(600, seed=100 + seed)
        assert walked(data, chain, alpha=0.05)[:2] == walked_by_hand(data, chain, alpha=0.05)

    def test_stops_at_the_first_failure_even_if_a_later_value_would_pass(self) -> None:
        """One hundred certain exits as 1; early misses; then a flood of exits cannot bring it back."""
        data = of_positives(np.concatenate([np.full(100, 9.0), np.full(20, -3.0)]), np.zeros(120))
        assert walked(data, chain_of(-4.0, -2.0, -1.0), alpha=0.05) == (-4.0, 2, 0, 100)

    def test_reports_the_count_at_the_first_value_if_nothing_passes(self) -> None:
        data = of_positives(np.concatenate([np.full(100, 9.0), np.full(20, -3.0)]), np.zeros(120))
        assert walked(data, chain_of(-2.0, -1.0), alpha=0.05) == (None, 1, 20, 120)

    def test_certifies_nothing_if_no_positive_exits(self) -> None:
        assert walked(of_positives(np.zeros(500), np.zeros(500)), chain_of(-1.0), alpha=0.02) == (None, 1, 0, 0)

    def test_may_come_to_the_end_of_the_grid(self) -> None:
        data = of_positives(np.full(300, 9.0), np.zeros(300))
        assert walked(data, chain_of(-2.0, -1.0), alpha=0.05) == (-1.0, 2, 0, 300)

    def test_an_empty_grid_is_a_mistake_of_the_caller(self, binormal: Maker) -> None:
        with pytest.raises(ValueError, match="grid of t0 is empty"):
            walked(binormal(50, seed=1), chain_of(), alpha=0.05)

    @pytest.mark.parametrize("stretch", [lambda x: x**3, lambda x: 2 * x + 5, lambda x: x**5 - 64])
    def test_only_the_order_of_scores_matters(self, stretch: Callable[[Any], Any]) -> None:
        """On whole numbers the transforms are exact in single precision."""
        rng = np.random.default_rng(30)
        score, gate = rng.integers(-3, 18, 800).astype(float), rng.integers(-4, 9, 800).astype(float)
        grid = np.arange(-3.0, 9.0)
        plain = walked(of_positives(score, gate), chain_of(*grid.tolist(), tau=-2.0, t1=10.0), alpha=0.2)
        other = walked(
            of_positives(stretch(score), stretch(gate)),
            chain_of(*stretch(grid).tolist(), tau=stretch(-2.0), t1=stretch(10.0)),
            alpha=0.2,
        )
        assert plain[0] is not None
        assert other == (stretch(plain[0]), *plain[1:])

    def test_the_order_of_rows_does_not_matter(self, binormal: Maker) -> None:
        data, (chain,) = binormal(600, seed=3, frames=3), select(binormal(600, seed=4), SMALL).chains
        shuffled = data.pick(np.random.default_rng(5).permutation(600))
        claims = [Claim(Risk.MISS_EXIT, 0.05, 0.1)]
        first, second = (walk(rows, rows.units("group", 0), chain, claims) for rows in (data, shuffled))
        assert first.certified == second.certified
        assert np.array_equal(first.p_values, second.p_values)


@pytest.fixture
def rows(binormal: Maker) -> Pair:
    """Rows of val_select and val_calib; even ones are by day, odd ones by night."""

    def make(
        select_rows: int = 1200, calib_rows: int = 1200, **options: Any
    ) -> tuple[LabelledOutputs, LabelledOutputs]:
        first = binormal(select_rows, seed=1, prefix="select/", **options)
        second = binormal(calib_rows, seed=2, prefix="calib/", **options)
        times = ["day", "night"]
        return replace(first, metadata={"daytime": [times[i % 2] for i in range(select_rows)]}), replace(
            second, metadata={"daytime": [times[i % 2] for i in range(calib_rows)]}
        )

    return make


class TestCertificate:
    def test_counts_what_its_policy_does(self, rows: Pair) -> None:
        params = calibrate(*rows(), SMALL, CONTEXT)
        assert params.status == "CERTIFIED"
        (proof,) = params.evidence
        misses = params.risks[Risk.MISS_EXIT]
        assert (proof.events, proof.trials) == (misses.events, misses.trials)
        assert proof.p_value == p_value(misses.events, misses.trials, params.alpha)
        assert proof.p_value <= proof.level == params.spent
        assert misses.upper <= params.alpha
        assert params.rule is not None
        (chain,) = params.chains
        assert params.rule.t0 == chain.grid[chain.tested - 2]
        assert params.exit_coverage is not None
        decided = ScrcPolicy(params).decide(rows()[1].outputs)
        assert params.exit_coverage.estimate == pytest.approx(decided.exits.mean())

    def test_says_what_it_proved(self, rows: Pair) -> None:
        params = calibrate(*rows(), SMALL, CONTEXT)
        assert params.positives_exited is not None
        misses = params.risks[Risk.MISS_EXIT]
        assert "With 90% confidence over the draw of the calibration groups" in params.statement
        assert (
            "among roadwork images on which Stage-1 exits, at most 5.0% are exited as non-roadwork, every group "
            "counting once by one such image of it, drawn at random "
            f"(image by image {misses.events} of {misses.trials}) (k = {misses.events} of m = {misses.trials};"
        ) in params.statement
        assert f"{params.positives_exited.estimate:.3f} of the roadwork exits" in params.statement

    def test_the_risks_of_rows_are_in_order(self, rows: Pair) -> None:
        risks = calibrate(*rows(), settings_of(unit="row"), CONTEXT).risks
        assert risks[Risk.MISS_ALL].upper <= risks[Risk.MISS_GATED].upper <= risks[Risk.MISS_EXIT].upper

    def test_names_the_rows_it_used_in_any_order(self, rows: Pair) -> None:
        chosen, calib = rows()
        turned = calib.pick(np.arange(len(calib))[::-1])
        assert calibrate(chosen, calib, SMALL, CONTEXT) == calibrate(chosen, turned, SMALL, CONTEXT)

    def test_a_tenth_of_what_it_defers_on_val_select_is_ambiguous(self, rows: Pair) -> None:
        chosen, calib = rows()
        level = ScrcPolicy(calibrate(chosen, calib, SMALL, CONTEXT)).decide(chosen.outputs).level
        deferred = level >= Level.UNCERTAIN
        assert np.mean(level[deferred] == Level.AMBIGUOUS) == pytest.approx(0.1, abs=0.01)

    def test_a_head_that_must_agree_is_part_of_what_is_certified(self, rows: Pair) -> None:
        """Its head is better than the main one, so the same rule with it misses fewer."""

        def with_head(data: LabelledOutputs) -> LabelledOutputs:
            rng = np.random.default_rng(len(data))
            score = rng.normal((data.labels - 0.5) * 4, 1.0).astype(np.float32)
            head = {"works": np.stack([np.zeros_like(score), score], 1)}
            return replace(data, outputs=Stage1Outputs(data.outputs.logits, data.outputs.select_score, head))

        chosen, calib = (with_head(data) for data in rows())
        params = calibrate(chosen, calib, settings_of(agreement=["works"]), CONTEXT)
        assert params.rule is not None
        (agreement,) = params.rule.agreement
        decided = ScrcPolicy(params).decide(calib.outputs)
        says = agreement.says_roadwork(calib.outputs)
        assert (says[decided.exits] == (decided.exit_label[decided.exits] == 1)).all()
        missed = int(np.sum((decided.exit_label == 0) & calib.positive))
        assert params.evidence[0].events == missed
        with pytest.raises(OutputsError, match="no head 'works'"):
            ScrcPolicy(params).decide(rows()[1].outputs)


class TestReuse:
    def test_the_looks_at_a_fold_are_equal_and_the_statement_counts_them(self, rows: Pair) -> None:
        first, third = (calibrate(*rows(), SMALL, replace(CONTEXT, prior_uses=uses)) for uses in (0, 2))
        assert third.spent == first.spent == 0.1 / 6
        assert third.rule == first.rule
        assert third.spent_before == pytest.approx(0.2 / 6)
        assert "This is look 1 at this fold of calibration rows, tested at 0.017; 5 are left." in first.statement
        assert "This is look 3 at this fold of calibration rows, tested at 0.017; 3 are left." in third.statement
        assert "All certificates from the fold hold together at 90%" in third.statement

    def test_after_the_last_look_nothing_is_certified_and_it_is_said_what_to_label(self, rows: Pair) -> None:
        used_up = replace(CONTEXT, prior_uses=6, calib_share=0.2)
        params = calibrate(*rows(), SMALL, used_up)
        assert params.status == "INFEASIBLE"
        assert "looked at 6 times, which spent 0.1 of a delta of 0.1; one more look" in params.reason
        # At 5 % and level 0.1 / 6 it takes 80 without a loss.
        assert "A fresh fold takes 80 roadwork groups that no look has used." in params.reason
        assert "Label about 400 more roadwork groups: 20% of new ones reach val_calib." in params.reason

    def test_nights_without_end_spend_less_and_less(self, rows: Pair) -> None:
        settings = settings_of(spending="nights")
        params = calibrate(*rows(), settings, replace(CONTEXT, prior_uses=3))
        assert (params.prior_uses, params.spent) == (3, spent_on(0.1, 3))
        assert "used 3 times before: this certificate was tested at 0.0038, so that all" in params.statement
        first = calibrate(*rows(), settings, CONTEXT)
        assert first.exit_coverage is not None
        assert params.exit_coverage is not None
        assert params.exit_coverage.events < first.exit_coverage.events

    def test_what_is_known_of_the_rows_stands_at_the_end_of_the_statement(self, rows: Pair) -> None:
        params = calibrate(*rows(), SMALL, replace(CONTEXT, sample="13 rows are gone."))
        plain = calibrate(*rows(), SMALL, CONTEXT)
        assert params.statement == f"{plain.statement} 13 rows are gone."
        assert params.rule == plain.rule

    def test_a_single_use_may_spend_it_all_and_then_says_so(self, rows: Pair) -> None:
        settings = settings_of(spending="single_use")
        params = calibrate(*rows(), settings, replace(CONTEXT, prior_uses=1))
        assert params.spent == params.delta
        assert "used once before, each time at the full level: the confidence is that of one" in params.statement


class TestRowsOfAGroup:
    def test_are_not_taken_for_independent_unless_that_is_allowed(self, binormal: Maker) -> None:
        chosen, calib = binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c", frames=3)
        problem = r"900 images of val_calib are in 300 groups, the largest with 3 \('c2/0'\): set unit=group, or"
        with pytest.raises(RowsError, match=problem):
            calibrate(chosen, calib, settings_of(unit="row"), CONTEXT)
        allowed = calibrate(chosen, calib, settings_of(unit="row", allow_row_unit=True), CONTEXT)
        assert allowed.unit == "row"
        assert calibrate(chosen, calib, settings_of(unit="group"), CONTEXT).unit == "group"


class TestInfeasible:
    def test_too_few_positives_say_how_many_are_missing(self, rows: Pair) -> None:
        chosen, calib = rows(calib_rows=90)
        positives, needed = int(calib.labels.sum()), trials_needed(0, 0.05, FIRST_USE)
        params = calibrate(chosen, calib, SMALL, CONTEXT)
        assert (params.status, params.rule, params.chains) == ("INFEASIBLE", None, ())
        assert params.positives == positives
        assert f"has {positives} independent positive groups; " in params.reason
        assert f"Label at least {needed - positives} more roadwork groups" in params.reason

    @pytest.mark.parametrize("frames", [30, 1200])
    def test_frames_of_a_group_are_not_more_positives(self, rows: Pair, frames: int) -> None:
        """One group, or a few, can prove nothing, however many frames they have."""
        chosen, calib = rows()
        groups = [f"calib/site {i // frames}" for i in range(len(calib))]
        params = calibrate(chosen, replace(calib, groups=groups), SMALL, CONTEXT)
        assert params.positives <= 1200 / frames
        assert (params.status, params.rule) == ("INFEASIBLE", None)
        assert "independent positive groups" in params.reason

    def test_a_bad_model_says_what_it_would_take(self, binormal: Maker) -> None:
        good, bad = binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c", separation=-3.0)
        params = calibrate(good, bad, SMALL, CONTEXT)
        assert (params.status, params.chains[0].tested) == ("INFEASIBLE", 1)
        assert "at the most cautious threshold" in params.reason
        assert "exited positive groups, or a model that errs less" in params.reason
        assert "5 looks are left at these rows." in params.reason

    def test_after_a_look_that_proved_nothing_it_is_said_what_to_label_before_the_next(self, binormal: Maker) -> None:
        good, few = binormal(900, seed=1, prefix="s"), binormal(330, seed=2, prefix="c", separation=-1.5)
        params = calibrate(good, few, SMALL, replace(CONTEXT, calib_share=0.2, prior_uses=5))
        (proof,) = params.evidence
        missing = trials_needed(proof.events, 0.05, 0.1 / 6) - proof.trials
        wanted = math.ceil(math.ceil(missing * params.positives / proof.trials) / 0.2)
        assert f"Label about {wanted} more roadwork groups: 20% of new ones reach val_calib." in params.reason
        assert params.reason.endswith("This was the last look at these rows: the next certificate takes a fresh fold.")

    @pytest.mark.parametrize("label", [0, 1])
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_missing_class_is_named(self, rows: Pair, which: int, label: int) -> None:
        sets = list(rows())
        sets[which] = replace(sets[which], labels=np.full(len(sets[which]), 1 - label, np.int8))
        params = calibrate(sets[0], sets[1], SMALL, CONTEXT)
        assert params.status == "INFEASIBLE"
        name, what = ("val_select", "val_calib")[which], ("images without roadwork", "roadwork images")[label]
        assert params.reason.startswith(f"{name} has no {what}: both classes are needed")

    def test_what_cannot_be_certified_exits_nowhere(
        self, binormal: Maker, certificate: Callable[..., ScrcParams]
    ) -> None:
        decided = ScrcPolicy(certificate(feasible=False)).decide(binormal(500, seed=3).outputs)
        assert not decided.exits.any()

    def test_refuses_sets_that_share_a_group(self, binormal: Maker) -> None:
        data = binormal(300, seed=1, frames=2)
        odd, even = (data.pick(np.flatnonzero(np.arange(300) % 2 == side)) for side in (0, 1))
        with pytest.raises(RowsError, match="val_select and val_calib share 150 groups, for example '1/0'"):
            calibrate(odd, even, SMALL, CONTEXT)


class TestAlgorithmA:
    SETTINGS = settings_of(algorithm="A", risk="D1", unit="row")

    def test_takes_t0_from_the_positive_that_may_just_not_be_missed(self, rows: Pair) -> None:
        _, calib = rows()
        params = calibrate(*rows(), self.SETTINGS, CONTEXT)
        assert params.rule is not None
        allowed = losses_allowed(int(calib.labels.sum()), 0.05, FIRST_USE)
        gate = calib.outputs.select_score >= params.rule.tau
        scores = np.where(gate, calib.outputs.roadwork_score, np.inf)[calib.positive]
        grid = np.asarray(params.chains[0].grid)
        assert params.rule.t0 == grid[grid <= np.sort(scores)[allowed]].max()
        misses = params.risks[Risk.MISS_ALL]
        assert misses.trials == int(calib.labels.sum())
        assert allowed - 3 <= misses.events <= allowed
        assert "of all roadwork images, at most 5.0% are exited as non-roadwork" in params.statement

    def test_ties_are_not_missed(self) -> None:
        """Where many positives share the decisive score, strictly below it are fewer than may be missed."""
        score = np.repeat([-2.0, 3.0, -1.0, 4.0], [180, 20, 40, 160])
        labels = np.repeat([0, 1], [200, 200]).astype(np.int8)
        outputs = Stage1Outputs(np.stack([np.zeros(400), score], 1).astype(np.float32), np.zeros(400, np.float32))
        sets = [LabelledOutputs(outputs, labels, ids, ids) for ids in ([f"{s}{i}" for i in range(400)] for s in "sc")]
        params = calibrate(sets[0], sets[1], self.SETTINGS, CONTEXT)
        assert params.rule is not None
        # Between the negatives, at -2, and the positives that share -1.
        assert params.rule.t0 == -1.5
        assert params.evidence[0].events == 0
        assert losses_allowed(200, 0.05, FIRST_USE) > 0

    def test_roadwork_below_everything_in_val_select_is_not_let_through(self, binormal: Maker) -> None:
        """Then the order statistic lies below the grid, and nothing on the grid may be certified."""
        good, bad = binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c")
        logits = bad.outputs.logits.copy()
        logits[bad.positive, 1] -= 50
        low = replace(bad, outputs=Stage1Outputs(logits, bad.outputs.select_score))
        params = calibrate(good, low, self.SETTINGS, CONTEXT)
        assert params.status == "INFEASIBLE"
        assert "at the most cautious threshold" in params.reason

    def test_goes_with_d1_alone(self) -> None:
        with pytest.raises(ValidationError, match="algorithm A certifies D1 only, not D2"):
            CalibrationSettings(algorithm="A")


class TestAlgorithmC:
    def test_walks_each_gate_at_its_share_and_takes_the_one_that_exits_most(self, rows: Pair) -> None:
        settings = settings_of(algorithm="C", gates=3, unit="row")
        chosen, calib = rows()
        params = calibrate(chosen, calib, settings, CONTEXT)
        assert params.rule is not None
        assert len(params.chains) == 3
        assert params.evidence[0].level == pytest.approx(FIRST_USE / 3)
        # The choice among three gates is paid for in every bound that stands beside the certified one.
        assert params.bound_delta == pytest.approx(FIRST_USE / 3)
        for found in params.risks.values():
            assert found.upper == pytest.approx(upper_bound(found.events, found.trials, FIRST_USE / 3))
        best = 0
        for chain in params.chains:
            t0, tested = walked_by_hand(calib, chain, alpha=0.05, delta=FIRST_USE / 3)
            assert chain.tested == tested
            if t0 is not None:
                score = calib.outputs.roadwork_score
                gate = calib.outputs.select_score >= chain.tau
                best = max(best, int(np.sum(gate & ((score < np.float32(t0)) | (score >= chain.t1)))))
        assert params.exit_coverage is not None
        assert params.exit_coverage.events == best

    def test_one_gate_is_algorithm_b(self, rows: Pair) -> None:
        one, plain = (
            calibrate(*rows(), settings, CONTEXT) for settings in (settings_of(algorithm="C", gates=1), SMALL)
        )
        assert (one.rule, one.evidence) == (plain.rule, plain.evidence)

    def test_several_risks_hold_together_or_not_at_all(self, rows: Pair) -> None:
        settings = settings_of(algorithm="C", gates=1, also={"D4": 0.04, "D5": 0.01})
        params = calibrate(*rows(3000, 3000), settings, CONTEXT)
        assert params.status == "CERTIFIED"
        assert {(e.risk, e.bound) for e in params.evidence} == {
            (Risk.MISS_EXIT, 0.05),
            (Risk.ERROR_EXIT, 0.04),
            (Risk.MISS_JOINT, 0.01),
        }
        assert all(e.p_value <= e.level == FIRST_USE for e in params.evidence)
        assert "at most 4.0% are exited with the wrong label, and at most 1.0% of all images" in params.statement
        alone = calibrate(*rows(3000, 3000), settings_of(), CONTEXT)
        assert alone.exit_coverage is not None
        assert params.exit_coverage is not None
        assert params.exit_coverage.events <= alone.exit_coverage.events

    def test_holm_tests_every_pair(self, rows: Pair) -> None:
        settings = settings_of(algorithm="C", gates=3, multiplicity="holm", unit="row")
        params = calibrate(*rows(4000, 4000), settings, CONTEXT)
        assert params.rule is not None
        assert params.rule.t0 in params.chains[params.chosen].grid
        # Holm's level of this pair, from the p-values of all of them.
        _, calib = rows(4000, 4000)
        units, claims = calib.units("row", 0), [Claim(Risk.MISS_EXIT, 0.05, FIRST_USE)]
        p = [walk(calib, units, chain, claims).p_values[0] for chain in params.chains]
        place = params.chains[params.chosen].grid.index(params.rule.t0)
        levels = np.split(holm(np.concatenate(p), FIRST_USE), np.cumsum([len(part) for part in p])[:-1])
        assert params.evidence[0].level == pytest.approx(levels[params.chosen][place])
        assert params.evidence[0].p_value <= params.evidence[0].level < FIRST_USE

    def test_holm_says_that_so_many_tests_take_more_rows(self, rows: Pair) -> None:
        settings = settings_of(algorithm="C", multiplicity="holm", alpha=0.02, spending="single_use")
        params = calibrate(*rows(900, 500), settings, CONTEXT)
        assert params.status == "INFEASIBLE"
        assert "pairs of gate and threshold has a p-value of at most" in params.reason


class TestCoverageMode:
    def test_certifies_the_coverage_and_the_lowest_risk_it_can_be_had_at(self, rows: Pair) -> None:
        params = calibrate(*rows(2000, 2000), settings_of(mode="coverage", coverage=0.75, unit="row"), CONTEXT)
        assert params.status == "CERTIFIED"
        assert params.exit_coverage is not None
        level = params.spent / len(params.chains)
        covered = params.exit_coverage
        assert lower_bound(covered.events, covered.trials, level) >= 0.75
        misses = params.risks[Risk.MISS_EXIT]
        assert params.alpha == pytest.approx(upper_bound(misses.events, misses.trials, level))
        assert "Stage-1 exits on at least 75.0% of the images, and among roadwork images" in params.statement

    def test_more_coverage_costs_more_risk(self, rows: Pair) -> None:
        risks = [
            calibrate(*rows(2000, 2000), settings_of(mode="coverage", coverage=coverage), CONTEXT).alpha
            for coverage in (0.5, 0.7, 0.9)
        ]
        assert risks == sorted(risks)

    def test_too_few_units_are_told_before_a_score_is_looked_at(self, rows: Pair) -> None:
        settings = settings_of(mode="coverage", coverage=0.9)
        sets = rows(900, 40)
        why = obstacle(*sets, settings, replace(CONTEXT, calib_share=0.5))
        needed = trials_needed(0, 1 - 0.9, 0.1 / 6 / 4)
        assert why is not None
        assert (
            f"val_calib has 40 independent groups; certifying an exit coverage of 90.0% takes at least {needed}" in why
        )
        assert f"Label about {2 * (needed - 40)} more groups" in why

    def test_what_cannot_be_covered_is_said(self, rows: Pair) -> None:
        seen, there = rows(900, 300)
        hesitant = replace(there, outputs=replace(there.outputs, select_score=there.outputs.select_score - 2))
        params = calibrate(seen, hesitant, settings_of(mode="coverage", coverage=0.97), CONTEXT)
        assert params.status == "INFEASIBLE"
        assert "no candidate proves an exit coverage of 97.0%" in params.reason


class TestBalancedMode:
    SETTINGS = settings_of(mode="balanced", unit="row")

    def test_every_subgroup_has_its_own_bound(self, rows: Pair) -> None:
        params = calibrate(*rows(), self.SETTINGS, CONTEXT)
        assert params.status == "CERTIFIED"
        proofs = {e.subgroup: e for e in params.evidence}
        assert set(proofs) == {"", "day", "night"}
        for name in ("day", "night"):
            assert proofs[name].bound == 2 * 0.05
            # All claims must be proved, so none pays for another.
            assert proofs[name].level == pytest.approx(FIRST_USE)
            assert params.subgroups[name].upper <= 2 * 0.05
        assert proofs["day"].trials + proofs["night"].trials == proofs[""].trials
        assert "at most 10.0% in each subgroup of daytime (day, night)" in params.statement

    def test_a_certificate_promises_no_less_where_its_subgroups_are_spelled_otherwise(self, rows: Pair) -> None:
        def spelled(part: LabelledOutputs, spelling: Callable[[str], str]) -> LabelledOutputs:
            return replace(part, metadata={"daytime": [spelling(value) for value in part.metadata["daytime"]]})

        def terms(spelling: Callable[[str], str]) -> Terms:
            select, calib = (spelled(part, spelling) for part in rows(1200, 3000))
            return Terms.of(calibrate(select, calib, self.SETTINGS, CONTEXT))

        before, after = terms(lambda value: f"{value.title()} time"), terms(lambda value: f"{value}  TIME")
        assert len(before.beside) == 2
        assert after == before
        assert terms(str.title).weaker_than(before)

    def test_a_subgroup_that_is_missed_more_often_holds_all_back(self, rows: Pair) -> None:
        chosen, calib = rows()
        night = np.arange(len(calib)) % 2 == 1
        logits = calib.outputs.logits.copy()
        logits[night & calib.positive, 1] -= 1.5
        worse = replace(calib, outputs=Stage1Outputs(logits, calib.outputs.select_score))
        plain = calibrate(chosen, worse, settings_of(unit="row"), CONTEXT)
        balanced = calibrate(chosen, worse, self.SETTINGS, CONTEXT)
        assert plain.exit_coverage is not None
        exits = 0 if balanced.exit_coverage is None else balanced.exit_coverage.events
        assert exits < plain.exit_coverage.events

    def test_a_subgroup_with_too_few_positives_is_named(self, rows: Pair) -> None:
        chosen, calib = rows()
        times = ["night" if i % 100 == 0 else "day" for i in range(len(calib))]
        params = calibrate(chosen, replace(calib, metadata={"daytime": times}), self.SETTINGS, CONTEXT)
        assert params.status == "INFEASIBLE"
        assert "in subgroup 'night'; certifying a miss rate on exits (D2) of 10.0%" in params.reason

    def test_a_subgroup_that_only_val_select_knows_needs_its_bound_too(self, rows: Pair) -> None:
        """Images of it will exit, so the promise for each subgroup must not leave it out."""
        chosen, calib = rows()
        by_day = replace(calib, metadata={"daytime": ["day"] * len(calib)})
        params = calibrate(chosen, by_day, self.SETTINGS, CONTEXT)
        assert params.status == "INFEASIBLE"
        assert "val_calib has 0 independent positive images in subgroup 'night'" in params.reason

    def test_a_missing_column_is_an_error(self, rows: Pair) -> None:
        settings = settings_of(mode="balanced", subgroups="city")
        with pytest.raises(RowsError, match="no column 'city' in the data; there is daytime"):
            calibrate(*rows(), settings, CONTEXT)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"mode": "coverage", "algorithm": "C"}, "mode coverage goes with algorithm B, not C"),
        ({"also": {"D4": 0.02}}, "several risks at once take algorithm C"),
        ({"algorithm": "C", "also": {"D2": 0.02}}, "`also` needs other risks than D2"),
        ({"algorithm": "C", "also": {"D4": 1.5}}, r"at levels in \(0, 1\), not D4: 1.5"),
        ({"multiplicity": "holm"}, "Holm's procedure goes with algorithm C, not B"),
        ({"alpha": 0.6}, "which certifies nothing"),
        ({"alpha": 0.0}, "greater than or equal to"),
        ({"agreement": "works"}, "agreement"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        settings_of(**changes)

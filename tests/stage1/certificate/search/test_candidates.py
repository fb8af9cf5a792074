"""What val_select chooses: gates, t1, the grid of t0, cuts of heads and of the AMBIGUOUS level."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from stage1.certificate.calibrate import CalibrationContext, calibrate
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.risks import Risk
from stage1.certificate.search.candidates import (
    ambiguous_cut,
    cuts,
    exit_one_threshold,
    fit_agreement,
    select,
    select_for_coverage,
)
from stage1.certificate.settings import CalibrationSettings
from stage1.decisions import DEFERRED
from stage1.exit_rule import ExitRule
from stage1.outputs import Stage1Outputs
from stage1.tolerance import TOLERANCE

Maker = Callable[..., LabelledOutputs]
CONTEXT = CalibrationContext("e" * 64, "p" * 64, code_version="test")
SMALL = CalibrationSettings(alpha=0.05, grid_size=40, gate_size=5, gate="select_score")


def fairest_cut(negatives: NDArray[np.float32], positives: NDArray[np.float32]) -> float:
    """Middle of the first gap between scores where sensitivity plus specificity is highest."""
    values = np.unique(np.concatenate([negatives, positives]))
    gaps = (values[:-1] + values[1:]) / 2
    return float(max(gaps, key=lambda gap: (np.mean(negatives < gap) - np.mean(positives < gap), -gap)))


class TestExitOne:
    @given(st.lists(st.integers(-5, 5), min_size=1, max_size=50), st.integers(0, 60))
    def test_is_the_smallest_that_keeps_the_false_alarms(self, scores: list[int], allowed: int) -> None:
        negatives = np.array(scores, np.float32)
        t1 = exit_one_threshold(negatives, allowed)
        assert np.sum(negatives >= t1) <= allowed
        if allowed < len(scores):
            below = np.nextafter(np.float32(t1), np.float32(-np.inf))
            assert np.sum(negatives >= below) > allowed
        else:
            assert t1 == -math.inf

    def test_without_negatives_everything_may_exit_as_1(self) -> None:
        assert exit_one_threshold(np.zeros(0, np.float32), 0) == -math.inf


def noisy(outputs: Stage1Outputs, size: float, seed: int) -> Stage1Outputs:
    """What another machine, or another batch size, makes of the same images."""
    rng = np.random.default_rng(seed)

    def moved(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values + rng.uniform(-size, size, values.shape).astype(np.float32)

    return Stage1Outputs(moved(outputs.logits), moved(outputs.select_score))


class TestCuts:
    @given(
        st.lists(st.floats(-1e3, 1e3, width=32) | st.integers(-3, 3).map(float), min_size=1, max_size=60),
        st.sampled_from([1e-7, 1e-3, 2e-2]),
    )
    def test_separate_scores_and_lie_on_none(self, scores: list[float], tolerance: float) -> None:
        ascending = np.sort(np.array(scores, np.float32))
        thresholds = cuts(ascending, tolerance)
        assert thresholds.dtype == np.float32
        assert (np.diff(thresholds) > 0).all()
        assert thresholds[0] < ascending[0]
        assert thresholds[-1] > ascending[-1]
        below = np.searchsorted(ascending, thresholds)
        assert (np.diff(below) > 0).all()
        assert below[0] == 0
        assert below[-1] == len(ascending)

    @pytest.mark.parametrize("tolerance", [1e-3, 2e-2])
    def test_keep_twice_the_tolerance_from_every_score_where_there_is_room(self, tolerance: float) -> None:
        scores = np.sort(np.random.default_rng(0).normal(0, 200, 300).astype(np.float32))
        away = np.abs(cuts(scores, tolerance)[:, None] - scores[None]).min()
        # But for the rounding of single precision.
        assert away >= 1.99 * tolerance

    @pytest.mark.parametrize("step", [1 / 64, 0.25])
    def test_lie_in_every_gap_of_scores_on_a_lattice(self, step: float) -> None:
        """Engines of low precision return few different scores; their steps may be below the tolerance."""
        scores = np.repeat(np.arange(40, dtype=np.float32) * np.float32(step), 5)
        assert len(cuts(scores, 2e-2)) == 41

    def test_are_those_of_the_widest_quarter_where_scores_lie_densely(self) -> None:
        values = np.unique(np.random.default_rng(0).normal(size=20_000).astype(np.float32))
        gaps, chosen = np.diff(values), np.diff(np.searchsorted(values, cuts(values, 2e-2)))
        assert len(chosen) == pytest.approx(len(gaps) / 4, rel=0.4)
        below = np.searchsorted(values, cuts(values, 2e-2)[1:-1])
        assert gaps[below - 1].min() >= np.quantile(gaps, 0.7)


class TestSelect:
    @pytest.mark.parametrize("rows", [64, 300, 1000])
    def test_no_row_that_chose_is_decided_otherwise_by_the_last_bits_of_its_score(
        self, binormal: Maker, rows: int
    ) -> None:
        """Golden images are rows of val_select: a threshold on one of them would make a bundle refuse itself."""
        for seed in range(60):
            data = binormal(rows, seed=seed)
            for chain in select(data, SMALL).chains:
                for t0 in chain.grid:
                    rule = ExitRule(tau=chain.tau, t0=t0, t1=chain.t1)
                    other = noisy(data.outputs, 2e-6, seed)
                    assert (rule.exit_labels(other) == rule.exit_labels(data.outputs)).all()

    @pytest.mark.parametrize("seed", range(5))
    def test_freezes_an_increasing_grid_up_to_t1_behind_a_gate_of_the_data(self, binormal: Maker, seed: int) -> None:
        data = binormal(500, seed=seed)
        (chosen,) = select(data, SMALL).chains
        assert all(a < b for a, b in pairwise(chosen.grid))
        assert chosen.grid[-1] == chosen.t1
        assert len(chosen.grid) <= SMALL.grid_size
        assert np.mean(data.outputs.select_score < chosen.tau) <= 0.6
        negatives = data.outputs.roadwork_score[(data.labels == 0) & (data.outputs.select_score >= chosen.tau)]
        assert np.mean(negatives >= chosen.t1) <= SMALL.false_alarm_rate

    def test_classes_that_lie_far_apart_are_cut_in_the_middle(self, binormal: Maker) -> None:
        """Not just above the negatives, where a slightly higher score would be said to be roadwork."""
        data = binormal(400, seed=1, separation=40.0)
        score = data.outputs.roadwork_score
        (chosen,) = select(data, SMALL).chains
        low, high = score[data.labels == 0].max(), score[data.labels == 1].min()
        assert chosen.t1 == pytest.approx((low + high) / 2, abs=0.5)

    def test_every_threshold_is_a_single_precision_number(self, binormal: Maker) -> None:
        """Scores are; so a threshold that is read back from a file decides as the one that was tested."""
        (chosen,) = select(binormal(500, seed=1), SMALL).chains
        assert all(float(np.float32(value)) == value for value in (chosen.tau, chosen.t1, *chosen.grid))

    def test_promises_the_coverage_of_the_best_safe_pair(self, binormal: Maker) -> None:
        """Against all pairs of gate and t0, by the definition of the smoothed miss rate."""
        settings = SMALL.model_copy(update={"unit": "row", "grid_size": 500})
        data = binormal(500, seed=9)
        score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
        best = 0.0
        passes = cuts(np.sort(gate_score), TOLERANCE)
        shares = np.linspace(0, 0.6, settings.gate_size)[1:]
        wanted = np.quantile(gate_score, shares).astype(np.float32)
        for tau in [passes[0], *(passes[passes >= value].min() for value in wanted)]:
            gate = gate_score >= tau
            thresholds = cuts(np.sort(score[gate]), TOLERANCE)
            negatives = score[gate & (data.labels == 0)]
            allowed = math.floor(settings.false_alarm_rate * len(negatives))
            least = max(
                exit_one_threshold(negatives, allowed), fairest_cut(negatives, score[gate & (data.labels == 1)])
            )
            t1 = thresholds[thresholds >= np.float32(least)].min()
            for t0 in thresholds[thresholds <= t1]:
                exits = gate & ((score < np.float32(t0)) | (score >= t1))
                positives = exits & (data.labels == 1)
                smoothed = (np.sum(positives & (score < np.float32(t0))) + 1) / (positives.sum() + 2)
                if smoothed <= settings.safety * settings.alpha:
                    best = max(best, float(exits.mean()))
        assert select(data, settings).expected_coverage == pytest.approx(best)

    def test_several_gates_are_different_and_the_best_comes_first(self, binormal: Maker) -> None:
        settings = SMALL.model_copy(update={"algorithm": "C", "gates": 3})
        data = binormal(800, seed=4)
        chosen = select(data, settings)
        assert len({chain.tau for chain in chosen.chains}) == 3
        assert chosen.chains[0] == select(data, SMALL).chains[0]

    @pytest.mark.parametrize("risk", [Risk.FALSE_OMISSION, Risk.ERROR_EXIT])
    def test_a_risk_whose_trials_grow_starts_where_it_has_power(self, binormal: Maker, risk: Risk) -> None:
        """At the lowest t0 hardly anything exits, and nothing could be certified."""
        settings = SMALL.model_copy(update={"risk": risk})
        (chosen,) = select(binormal(900, seed=1), settings).chains
        (plain,) = select(binormal(900, seed=1), SMALL).chains
        assert chosen.grid[0] > plain.grid[0]
        rows = binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c")
        assert calibrate(*rows, settings, CONTEXT).status == "CERTIFIED"

    def test_a_model_that_says_the_same_of_everything_is_survived(self, outputs_of: Callable[..., Any]) -> None:
        labels = np.arange(100).astype(np.int8) % 2
        ids = [str(i) for i in range(100)]
        chosen = select(LabelledOutputs(outputs_of(np.zeros(100)), labels, ids, ids), SMALL)
        assert chosen.expected_coverage == 0.0

    @pytest.mark.parametrize("factor", [0.25, 2.0, 16.0])
    def test_units_of_the_logit_do_not_matter(self, binormal: Maker, factor: float) -> None:
        """Powers of two scale every float exactly; the tolerance is a number of logits and scales with them."""

        def scaled(seed: int, prefix: str, by: float) -> LabelledOutputs:
            rows = binormal(700, seed=seed, prefix=prefix)
            outputs = Stage1Outputs(rows.outputs.logits * np.float32(by), rows.outputs.select_score)
            return replace(rows, outputs=outputs)

        plain, other = (
            calibrate(scaled(6, "s", by), scaled(7, "c", by), SMALL, replace(CONTEXT, tolerance=1e-6 * by))
            for by in (1.0, factor)
        )
        assert plain.rule is not None
        assert other.rule is not None
        assert (other.chains[0].tested, other.risks) == (plain.chains[0].tested, plain.risks)
        assert other.rule.t0 == factor * plain.rule.t0


class TestSelectForCoverage:
    def test_offers_rules_of_growing_coverage_above_the_target(self, binormal: Maker) -> None:
        settings = CalibrationSettings(mode="coverage", coverage=0.7, gate_size=5, gate="select_score")
        data = binormal(1500, seed=3)
        chains = select_for_coverage(data, settings, units=1500).chains
        coverage = [
            np.mean(ExitRule(tau=c.tau, t0=c.grid[0], t1=c.t1).exit_labels(data.outputs) != DEFERRED) for c in chains
        ]
        assert len(chains) > 1
        assert coverage == sorted(coverage)
        assert coverage[0] > 0.7

    def test_all_that_can_exit_is_the_most_it_offers(self, binormal: Maker) -> None:
        settings = CalibrationSettings(mode="coverage", coverage=0.999, gate_size=5, gate="select_score")
        data = binormal(500, seed=3)
        for chain in select_for_coverage(data, settings, units=500).chains:
            rule = ExitRule(tau=chain.tau, t0=chain.grid[0], t1=chain.t1)
            assert (rule.exit_labels(data.outputs) != DEFERRED).all()


class TestAgreement:
    @given(arrays(np.float32, 60, elements=st.integers(-6, 6).map(float)), arrays(np.bool_, 60, elements=st.booleans()))
    def test_cuts_where_the_balanced_accuracy_is_highest(self, score: np.ndarray, positive: np.ndarray) -> None:
        positive[:2] = [True, False]
        head = np.stack([np.zeros_like(score), score], axis=1)
        outputs = Stage1Outputs(np.zeros((60, 2), np.float32), np.zeros(60, np.float32), {"works": head})
        ids = [str(i) for i in range(60)]
        (agreement,) = fit_agreement(LabelledOutputs(outputs, positive.astype(np.int8), ids, ids), ["works"])

        def balanced(says: np.ndarray) -> float:
            return float(says[positive].mean() + (~says[~positive]).mean())

        best = max(balanced(score >= cut) for cut in np.arange(-6.5, 6.5))
        assert balanced(agreement.says_roadwork(outputs)) == pytest.approx(best)


class TestMargin:
    """With two classes the margin is the absolute roadwork score, and a gate on it cuts where t0 and t1 do."""

    @pytest.mark.parametrize("algorithm", ["B", "C"])
    def test_there_is_one_gate_and_everything_passes_it(self, binormal: Maker, algorithm: str) -> None:
        data = binormal(800, seed=4)
        (chain,) = select(data, SMALL.model_copy(update={"gate": "margin", "algorithm": algorithm})).chains
        assert chain.tau == 0.0
        chosen = select(data, SMALL.model_copy(update={"gate": "margin"})).chosen
        assert chosen is not None
        assert chosen.gate(data.outputs).all()

    def test_what_the_selection_head_says_changes_nothing(self, binormal: Maker) -> None:
        data = binormal(800, seed=4)
        other = replace(data, outputs=replace(data.outputs, select_score=-data.outputs.select_score))
        settings = SMALL.model_copy(update={"gate": "margin"})
        assert select(data, settings) == select(other, settings)

    def test_no_gate_on_it_lets_more_exit_than_none(self, binormal: Maker) -> None:
        """Every pair of exits that a gate on the margin leaves can be had without it."""
        data = binormal(600, seed=4)
        for tau in (0.3, 1.0, 2.5):
            for t0, t1 in ((-0.5, 0.5), (-2.0, 1.0), (0.2, 0.4)):
                gated = ExitRule(tau=tau, t0=t0, t1=t1, gate_score="margin").exit_labels(data.outputs)
                free = ExitRule(tau=0.0, t0=min(t0, -tau), t1=max(t1, tau), gate_score="margin")
                outside = np.abs(data.outputs.roadwork_score) != np.float32(tau)
                assert np.array_equal(gated[outside], free.exit_labels(data.outputs)[outside])

    def test_ambiguous_are_the_narrowest_of_what_is_deferred(self, binormal: Maker) -> None:
        data = binormal(3000, seed=2)
        rule = ExitRule(tau=0.0, t0=-1.0, t1=1.0, gate_score="margin")
        deferred = rule.exit_labels(data.outputs) == DEFERRED
        margin = np.abs(data.outputs.roadwork_score)[deferred]
        assert np.mean(margin < ambiguous_cut(data, rule, 0.2, "margin")) == pytest.approx(0.2, abs=2e-3)


class TestAmbiguous:
    @pytest.mark.parametrize("share", [0.1, 0.3])
    def test_is_a_share_of_what_the_rule_defers(self, binormal: Maker, share: float) -> None:
        data = binormal(3000, seed=2)
        rule = ExitRule(tau=0.5, t0=-1.0, t1=1.0)
        deferred = rule.exit_labels(data.outputs) == DEFERRED
        below = data.outputs.select_score[deferred] < ambiguous_cut(data, rule, share, "select_score")
        assert np.mean(below) == pytest.approx(share, abs=2e-3)

    def test_is_a_share_of_everything_if_nothing_exits(self, binormal: Maker) -> None:
        data = binormal(3000, seed=2)
        assert np.mean(data.outputs.select_score < ambiguous_cut(data, None, 0.1, "select_score")) == pytest.approx(
            0.1, abs=1e-3
        )

    def test_a_rule_that_defers_nothing_finds_nothing_ambiguous(self, binormal: Maker) -> None:
        data = binormal(300, seed=2)
        everything = ExitRule(tau=-99.0, t0=0.0, t1=0.0)
        assert not (data.outputs.select_score < ambiguous_cut(data, everything, 0.1, "select_score")).any()

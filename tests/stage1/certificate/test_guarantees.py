"""What the theorems promise, measured: how often a calibration draw ends at a rule whose true risk exceeds alpha.

Where it matters a test shows what would break the promise: the empirical threshold, the printed budget, several gates
at the full level, frames taken for places.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import multivariate_normal, norm

from stage1.baselines.literature import conformal_budget, scrc_t, scrc_t_label, selected
from stage1.certificate.budget import Budget, Spending
from stage1.certificate.calibrate import CalibrationContext, calibrate, claims_of
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Chain
from stage1.certificate.risks import Risk, Unit, Units
from stage1.certificate.search.algorithms import Claim, certify_chains, certify_coverage, walk
from stage1.certificate.search.candidates import Candidates, select, select_for_coverage
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import p_value
from stage1.exit_rule import ExitRule
from stage1.outputs import Stage1Outputs

# So many sets judge rules, and each set that they are chosen on serves so many of them.
DRAWS, SERVES = 2000, 4
CONTEXT = CalibrationContext("e" * 64, "p" * 64, code_version="test")
# Scores of the two classes are normal with unit variance and an AUC of 0.988; three in ten images are roadwork.
SEPARATION, PREVALENCE, GATE_NOISE = math.sqrt(2) * float(norm.ppf(0.988)), 0.3, 0.5
AXIS = np.linspace(-8.0, SEPARATION + 8.0, 6001)
# Density of the score of an image of either class, and how far a score is from the middle.
DENSITIES = tuple(norm.pdf(AXIS - label * SEPARATION) for label in (0, 1))
FROM_MIDDLE = np.abs(AXIS - SEPARATION / 2)


def exceeds(frequency: float, delta: float, draws: int = DRAWS) -> bool:
    """More than three standard errors above delta."""
    return frequency > delta + 3 * math.sqrt(delta * (1 - delta) / draws)


@functools.lru_cache(maxsize=8)
def names(rows: int, prefix: str) -> tuple[str, ...]:
    """Ids of so many rows; no theorem looks at them, so every draw has the same."""
    return tuple(f"{prefix}{i}" for i in range(rows))


def draw(rng: np.random.Generator, rows: int, prefix: str) -> LabelledOutputs:
    """Rows of the generator; the selection score is the distance from the middle, with noise."""
    labels = (np.arange(rows) < PREVALENCE * rows).astype(np.int8)
    score = rng.normal(labels * SEPARATION, 1.0).astype(np.float32)
    select_score = np.abs(score - SEPARATION / 2) + rng.normal(0, GATE_NOISE, rows)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), select_score.astype(np.float32))
    ids = names(rows, prefix)
    return LabelledOutputs(outputs, labels, ids, ids)


def exit_probabilities(rule: ExitRule, label: int) -> tuple[float, float, float]:
    """P(exits as 0), P(exits as 1) and P(passes the gate) for an image of a class, by integration over its score."""
    # The probability of passing the gate, P(noise > x) = P(noise < -x), at each score.
    passes = 1.0 if rule.gate_score == "margin" else ndtr((FROM_MIDDLE - rule.tau) / GATE_NOISE)
    density = DENSITIES[label] * passes
    below = np.append(0.0, np.cumsum((density[1:] + density[:-1]) / 2 * np.diff(AXIS)))
    as_zero, before_one = np.interp([rule.t0, rule.t1], AXIS, below)
    return float(as_zero), float(below[-1] - before_one), float(below[-1])


def true_risk(risk: Risk, rule: ExitRule) -> float:
    """The risk of a rule on the generator."""
    missed, hit, gated = exit_probabilities(rule, 1)
    match risk:
        case Risk.MISS_ALL:
            return missed
        case Risk.MISS_GATED:
            return missed / gated
        case Risk.MISS_EXIT:
            return missed / (missed + hit)
        case Risk.ERROR_EXIT:
            right, alarm, _ = exit_probabilities(rule, 0)
            wrong = PREVALENCE * missed + (1 - PREVALENCE) * alarm
            return wrong / (wrong + PREVALENCE * hit + (1 - PREVALENCE) * right)
        case _:
            raise NotImplementedError(risk)


def true_coverage(rule: ExitRule) -> float:
    shares = ((1 - PREVALENCE, 0), (PREVALENCE, 1))
    return sum(share * sum(exit_probabilities(rule, label)[:2]) for share, label in shares)


def pairs(
    rng: np.random.Generator, rows: int, draws: int, change: Callable[[LabelledOutputs], LabelledOutputs] = lambda x: x
) -> Iterator[tuple[LabelledOutputs, LabelledOutputs]]:
    """Sets of both kinds. The promise holds given what rules are chosen on, so that serves several sets that judge."""
    for _ in range(draws // SERVES):
        chosen = change(draw(rng, rows, "select/"))
        for _ in range(SERVES):
            yield chosen, change(draw(rng, rows, "calib/"))


def chosen_once(select: Callable[..., Candidates]) -> Callable[..., Candidates]:
    """The same function, which remembers what it found last."""
    last: tuple[LabelledOutputs, tuple[object, ...], Candidates] | None = None

    def remembered(data: LabelledOutputs, *settings: object) -> Candidates:
        nonlocal last
        if last is None or last[0] is not data or last[1] != settings:
            last = data, settings, select(data, *settings)
        return last[2]

    return remembered


@pytest.fixture(autouse=True)
def each_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (select, select_for_coverage):
        monkeypatch.setattr(f"stage1.certificate.calibrate.{function.__name__}", chosen_once(function))


def certified_rules(
    settings: CalibrationSettings, *, draws: int, rows: int, seed: int
) -> tuple[list[ExitRule], list[float]]:
    """Certified rules of draws of both sets, and the level each was certified at."""
    rules, levels = [], []
    for chosen, judged in pairs(np.random.default_rng(seed), rows, draws):
        params = calibrate(chosen, judged, settings, CONTEXT)
        if params.rule is not None:
            rules.append(params.rule)
            levels.append(params.alpha)
    return rules, levels


SETTINGS = CalibrationSettings(
    alpha=0.02, delta=0.10, unit="row", spending="single_use", gate="select_score", gate_size=8, grid_size=400
)


def test_the_oracle_of_this_generator() -> None:
    """With all that can be known, no gate, false alarms of 2% and a miss rate of 2%: 88.4% exit."""
    t1 = float(norm.isf(0.02))
    hit = float(norm.sf(t1 - SEPARATION))
    t0 = SEPARATION + float(norm.ppf(0.02 / 0.98 * hit))
    rule = ExitRule(tau=-9.0, t0=t0, t1=t1)
    assert true_risk(Risk.MISS_EXIT, rule) == pytest.approx(0.02, abs=1e-4)
    assert true_coverage(rule) == pytest.approx(0.884, abs=1e-3)


class TestMargin:
    @pytest.mark.parametrize("rows", [1000, 4000])
    def test_keeps_its_promise_and_lets_no_less_exit_than_the_selection_score(self, rows: int) -> None:
        """On the same draws. A noisy gate that was chosen on val_select costs coverage; none costs nothing."""
        draws, coverage = 500, {}
        for gate in ("margin", "select_score"):
            settings = SETTINGS.model_copy(update={"gate": gate})
            rules, _ = certified_rules(settings, draws=draws, rows=rows, seed=7)
            violations = sum(true_risk(Risk.MISS_EXIT, rule) > 0.02 for rule in rules)
            assert not exceeds(violations / draws, 0.10, draws)
            coverage[gate] = sum(true_coverage(rule) for rule in rules) / draws
        assert coverage["margin"] > coverage["select_score"]


class TestAlgorithmB:
    def test_keeps_its_promise_and_lets_four_fifths_exit_at_1000_rows(self) -> None:
        settings = SETTINGS.model_copy(update={"gate_size": 25, "grid_size": 1000})
        rules, _ = certified_rules(settings, draws=DRAWS, rows=1000, seed=1)
        violations = sum(true_risk(Risk.MISS_EXIT, rule) > 0.02 for rule in rules)
        assert not exceeds(violations / DRAWS, 0.10)
        # It comes near the edge, or the test would say nothing.
        assert violations > 0.02 * DRAWS
        assert len(rules) > 0.99 * DRAWS
        assert sum(true_coverage(rule) for rule in rules) / DRAWS >= 0.80

    @pytest.mark.parametrize("step", [0.25, 1.0])
    def test_keeps_its_promise_where_many_scores_are_the_same(self, step: float) -> None:
        """Engines of low precision return few different scores; thresholds lie between them, where rounding turns."""
        rng, violations, certified = np.random.default_rng(51), 0, 0

        def coarse(data: LabelledOutputs) -> LabelledOutputs:
            score = np.round(data.outputs.roadwork_score / step) * np.float32(step)
            outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), data.outputs.select_score)
            return replace(data, outputs=outputs)

        for chosen, judged in pairs(rng, 1000, DRAWS // 2, coarse):
            params = calibrate(chosen, judged, SETTINGS, CONTEXT)
            certified += params.rule is not None
            violations += params.rule is not None and true_risk(Risk.MISS_EXIT, params.rule) > 0.02
        assert not exceeds(violations / (DRAWS // 2), 0.10, DRAWS // 2)
        assert certified > 0.95 * (DRAWS // 2)

    def test_lets_more_exit_at_4000_rows(self) -> None:
        settings = SETTINGS.model_copy(update={"gate_size": 25, "grid_size": 1000})
        rules, _ = certified_rules(settings, draws=300, rows=4000, seed=2)
        assert not exceeds(sum(true_risk(Risk.MISS_EXIT, rule) > 0.02 for rule in rules) / 300, 0.10, 300)
        assert sum(true_coverage(rule) for rule in rules) / 300 >= 0.855

    def test_the_threshold_that_only_looks_safe_breaks_it(self) -> None:
        """The largest t0 whose observed miss rate is at most alpha, on the same draws."""
        rng, violations = np.random.default_rng(3), 0
        choose = chosen_once(select)
        for chosen, data in pairs(rng, 1000, DRAWS):
            chain = choose(chosen, SETTINGS).chains[0]
            found = walk(data, data.units("row", 0), chain, [Claim(Risk.MISS_EXIT, 0.02, 0.1)])
            counts = found.counts[0]
            safe = np.flatnonzero(counts.losses <= 0.02 * counts.trials)
            rule = ExitRule(tau=chain.tau, t0=chain.grid[int(safe[-1])], t1=chain.t1) if len(safe) else None
            violations += rule is not None and true_risk(Risk.MISS_EXIT, rule) > 0.02
        assert exceeds(violations / DRAWS, 0.25)

    @pytest.mark.parametrize("uses", [0, 4])
    def test_a_share_of_delta_is_kept_too(self, uses: int) -> None:
        settings = SETTINGS.model_copy(update={"spending": "nights", "alpha": 0.05, "delta": 0.3})
        rng, violations, level = np.random.default_rng(4), 0, 0.0
        context = CalibrationContext("e", "p", prior_uses=uses)
        for chosen, judged in pairs(rng, 600, DRAWS):
            params = calibrate(chosen, judged, settings, context)
            level = params.spent
            violations += params.rule is not None and true_risk(Risk.MISS_EXIT, params.rule) > 0.05
        assert not exceeds(violations / DRAWS, level)


class TestAlgorithmA:
    def test_keeps_its_promise_exactly(self) -> None:
        settings = CalibrationSettings.model_validate(SETTINGS.model_dump() | {"algorithm": "A", "risk": "D1"})
        rules, _ = certified_rules(settings, draws=DRAWS, rows=1000, seed=5)
        violations = sum(true_risk(Risk.MISS_ALL, rule) > 0.02 for rule in rules)
        assert not exceeds(violations / DRAWS, 0.10)
        # 300 positives may miss 2: P(Bin(300, 0.02) <= 2) = 0.0601 is how often the bound is exceeded, wherever t1 lies
        # above the order statistic.
        assert violations / DRAWS == pytest.approx(0.0601, abs=3 * math.sqrt(0.06 * 0.94 / DRAWS))


class TestAlgorithmC:
    def test_keeps_its_promise_over_several_gates(self) -> None:
        settings = CalibrationSettings.model_validate(SETTINGS.model_dump() | {"algorithm": "C", "gates": 3})
        rules, _ = certified_rules(settings, draws=DRAWS, rows=1200, seed=6)
        violations = sum(true_risk(Risk.MISS_EXIT, rule) > 0.02 for rule in rules)
        assert not exceeds(violations / DRAWS, 0.10)
        assert violations > 0
        assert len(rules) > 0.9 * DRAWS

    def test_several_gates_at_the_full_level_would_break_it(self) -> None:
        """Three gates, each with a true miss rate just above alpha and a third of the rows of the one before."""
        alpha, risk, rows = 0.05, 0.0505, 1800
        ids, labels = [f"row {i}" for i in range(rows)], np.ones(rows, np.int8)
        chains = tuple(Chain(tau=float(tau), t1=5.0, grid=(0.0,)) for tau in range(3))
        select_score = np.repeat([0, 1, 2], [1200, 400, 200]).astype(np.float32)
        rng, paid, unpaid = np.random.default_rng(12), 0, 0
        for _ in range(DRAWS):
            score = np.where(rng.random(rows) < risk, -1.0, 9.0).astype(np.float32)
            outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), select_score)
            data = LabelledOutputs(outputs, labels, ids, ids)
            units, settings = data.units("row", 0), SETTINGS.model_copy(update={"alpha": alpha})
            for level in (0.10 / 3, 0.10):
                claims = [Claim(Risk.MISS_EXIT, alpha, level)]
                found = certify_chains(data, units, Candidates(chains), claims, settings)
                paid += level < 0.10 and found.rule is not None
                unpaid += level == 0.10 and found.rule is not None
        assert not exceeds(paid / DRAWS, 0.10)
        assert exceeds(unpaid / DRAWS, 0.10)

    def test_keeps_its_promise_for_several_risks_at_once(self) -> None:
        changes = {"algorithm": "C", "gates": 1, "also": {"D4": 0.03}, "alpha": 0.03, "false_alarm_rate": 0.015}
        settings = CalibrationSettings.model_validate(SETTINGS.model_dump() | changes)
        rules, _ = certified_rules(settings, draws=DRAWS, rows=1200, seed=7)
        violations = sum(
            true_risk(Risk.MISS_EXIT, rule) > 0.03 or true_risk(Risk.ERROR_EXIT, rule) > 0.03 for rule in rules
        )
        assert not exceeds(violations / DRAWS, 0.10)
        assert len(rules) > 0.5 * DRAWS

    def test_keeps_its_promise_by_holm(self) -> None:
        changes = {"algorithm": "C", "gates": 3, "multiplicity": "holm", "grid_size": 40}
        settings = CalibrationSettings.model_validate(SETTINGS.model_dump() | changes)
        rules, _ = certified_rules(settings, draws=DRAWS, rows=2400, seed=8)
        assert not exceeds(sum(true_risk(Risk.MISS_EXIT, rule) > 0.02 for rule in rules) / DRAWS, 0.10)
        assert len(rules) > 0.5 * DRAWS


class TestCoverageMode:
    def test_neither_the_coverage_nor_the_risk_is_worse_than_certified(self) -> None:
        changes = {"mode": "coverage", "coverage": 0.8}
        settings = CalibrationSettings.model_validate(SETTINGS.model_dump() | changes)
        rules, levels = certified_rules(settings, draws=DRAWS, rows=1000, seed=9)
        wrong = sum(
            true_coverage(rule) < 0.8 or true_risk(Risk.MISS_EXIT, rule) > level
            for rule, level in zip(rules, levels, strict=True)
        )
        assert not exceeds(wrong / DRAWS, 0.10)
        assert len(rules) > 0.9 * DRAWS

    @pytest.mark.parametrize(("coverage", "risk"), [(0.898, 0.001), (0.95, 0.0302)])
    def test_a_rule_is_wrong_in_one_way_only(self, coverage: float, risk: float) -> None:
        """One rule that covers just too little, or whose risk lies at an edge of the bound: each at the full level."""
        rows, alpha = 1500, 0.9
        settings = SETTINGS.model_copy(update={"mode": "coverage", "coverage": alpha})
        ids, labels = names(rows, "c"), (np.arange(rows) < 0.3 * rows).astype(np.int8)
        candidates = Candidates((Chain(tau=0.0, t1=5.0, grid=(0.0,)),))
        rng, wrong, proved = np.random.default_rng(31), 0, 0
        for _ in range(DRAWS):
            exits, lost = rng.random(rows) < coverage, rng.random(rows) < risk
            score = np.where((labels == 1) & ~lost, 9.0, -1.0).astype(np.float32)
            outputs = Stage1Outputs(
                np.stack([np.zeros_like(score), score], 1), np.where(exits, 1, -1).astype(np.float32)
            )
            data = LabelledOutputs(outputs, labels, ids, ids)
            found = certify_coverage(data, data.units("row", 0), candidates, settings, 0.10)
            proved += found.rule is not None
            wrong += found.rule is not None and (coverage < alpha or risk > found.evidence[0].bound)
        assert not exceeds(wrong / DRAWS, 0.10)
        assert wrong > 0.02 * DRAWS
        assert coverage < alpha or proved > 0.99 * DRAWS


class TestBalancedMode:
    """A promise for each subgroup is wrong only where all claims were proved, so each has the whole level."""

    @pytest.mark.parametrize("others", [0.0, 0.0405])
    def test_keeps_its_promise_for_three_subgroups_at_once(self, others: float) -> None:
        """One subgroup, or each of them, is missed just more often than its bound of twice alpha allows."""
        rows, alpha = 900, 0.02
        places = np.repeat(["a", "b", "c"], rows // 3)
        ids, labels = names(rows, "c"), np.ones(rows, np.int8)
        settings = SETTINGS.model_copy(update={"mode": "balanced", "subgroups": "place", "alpha": alpha})
        risk = np.where(places == "a", 0.0405, others)
        candidates = Candidates((Chain(tau=0.0, t1=5.0, grid=(0.0,)),))
        rng, wrong, divided = np.random.default_rng(32), 0, 0
        for _ in range(DRAWS):
            score = np.where(rng.random(rows) < risk, -1.0, 9.0).astype(np.float32)
            outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.zeros_like(score))
            data = LabelledOutputs(outputs, labels, ids, ids, {"place": places.tolist()})
            for level in (0.10, 0.10 / 3):
                claims = claims_of(data, settings, level, chains=1, subgroups=("a", "b", "c"))
                found = certify_chains(data, data.units("row", 0), candidates, claims, settings)
                wrong += level == 0.10 and found.rule is not None
                divided += level < 0.10 and found.rule is not None
        assert not exceeds(wrong / DRAWS, 0.10)
        # Where one claim alone is false, what the others were said to cost is free.
        assert others > 0 or wrong > 1.5 * divided > 0


class TestLooks:
    def test_all_certificates_of_a_fold_hold_together_and_at_the_full_level_each_they_would_not(self) -> None:
        """Six models that miss just too much, and mostly the same images: six chances to be certified wrongly."""
        alpha, risk, exits, looks = 0.02, 0.0205, 1200, 6
        rng = np.random.default_rng(41)
        any_wrong: dict[Spending, int] = {"looks": 0, "single_use": 0}
        for _ in range(DRAWS):
            shared = rng.normal(size=exits)
            scores = math.sqrt(0.8) * shared + math.sqrt(0.2) * rng.normal(size=(looks, exits))
            misses = np.sum(scores < norm.ppf(risk), axis=1)
            for spending in any_wrong:
                levels = [Budget(spending, 0.10, looks, uses).level for uses in range(looks)]
                certified = [p_value(int(k), exits, alpha) <= level for k, level in zip(misses, levels, strict=True)]
                any_wrong[spending] += any(certified)
        assert not exceeds(any_wrong["looks"] / DRAWS, 0.10)
        assert any_wrong["looks"] > 0.01 * DRAWS
        assert exceeds(any_wrong["single_use"] / DRAWS, 0.10)


class TestScrcT:
    """Conformal rules promise a mean over draws, and no more."""

    def test_keeps_its_promise_in_expectation_and_in_expectation_only(self) -> None:
        rng, alpha, coverage = np.random.default_rng(10), 0.05, 0.8
        outside = []
        for _ in range(DRAWS):
            found = scrc_t(draw(rng, 400, "c"), alpha=alpha, coverage=coverage)
            assert found.rule is not None
            missed, _, gated = exit_probabilities(found.rule, 1)
            _, alarm, gated_negatives = exit_probabilities(found.rule, 0)
            lost = PREVALENCE * missed + (1 - PREVALENCE) * alarm
            outside.append(lost / (PREVALENCE * gated + (1 - PREVALENCE) * gated_negatives))
        assert np.mean(outside) <= alpha + 3 * np.std(outside) / math.sqrt(DRAWS)
        assert np.mean(np.array(outside) > alpha) > 0.25

    @pytest.mark.parametrize("too_many", [0, 1])
    def test_the_budget_as_printed_is_one_too_many(self, too_many: int) -> None:
        """Label-conditional, 60 positives, 70% selected, alpha = 0.1: 0.071 in the mean, and 0.12 as printed."""
        rng, alpha = np.random.default_rng(11), 0.1
        risks = []
        for _ in range(DRAWS):
            data = draw(rng, 200, "c")
            tau, rows = selected(data.outputs.select_score, 0.7)
            scores = np.sort(data.outputs.roadwork_score[rows & data.positive])
            k = conformal_budget(len(scores), alpha) + too_many
            rule = ExitRule(tau=tau, t0=float(scores[k]), t1=99.0)
            if not too_many:
                ours = scrc_t_label(data, alpha=alpha, coverage=0.7, t1=99.0).rule
                assert ours == rule
            risks.append(true_risk(Risk.MISS_GATED, rule))
        mean, error = float(np.mean(risks)), float(np.std(risks)) / math.sqrt(DRAWS)
        assert (mean <= alpha + 3 * error) == (too_many == 0)


class TestGroups:
    """Frames of a place are not independent: what is certified must be certified place by place."""

    def test_the_frame_level_test_fails_where_frames_depend_on_each_other(self) -> None:
        """At a threshold whose true miss rate is just above alpha, certifying is an error."""
        sites, frames, risk, dependence = 200, 5, 0.0202, 0.6
        a = risk * (1 - dependence) / dependence
        b = (1 - risk) * (1 - dependence) / dependence
        groups = [f"site {site}" for site in range(sites) for _ in range(frames)]
        ids = [f"{group}/{frame}" for frame, group in enumerate(groups)]
        chain, claims = Chain(tau=0.0, t1=5.0, grid=(0.0,)), [Claim(Risk.MISS_EXIT, 0.02, 0.10)]
        units, rows = (Units.of(ids, groups, unit=unit, seed=0) for unit in ("group", "row"))
        rng, labels = np.random.default_rng(21), np.ones(sites * frames, np.int8)
        by_group = by_row = 0
        for _ in range(DRAWS):
            missed = rng.random((sites, frames)) < rng.beta(a, b, (sites, 1))
            score = np.where(missed, -1.0, 9.0).ravel().astype(np.float32)
            outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.zeros_like(score))
            data = LabelledOutputs(outputs, labels, ids, groups)
            by_group += walk(data, units, chain, claims).certified
            by_row += walk(data, rows, chain, claims).certified
        assert not exceeds(by_group / DRAWS, 0.10)
        assert exceeds(by_row / DRAWS, 0.15)

    @pytest.mark.parametrize(("unit", "kept"), [("group", True), ("row", False)])
    def test_the_whole_walk_is_right_by_group_and_wrong_by_row(
        self, unit: Unit, kept: bool, site_scores: Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]
    ) -> None:
        """Certified by group is the miss rate of a random exited frame of a random place that has one."""
        sites, frames, alpha, tau, t1 = 250, 6, 0.05, 0.3, 2.0
        grid = tuple(np.linspace(-0.5, 1.5, 40, dtype=np.float32).tolist())
        score, gate_score = site_scores(np.random.default_rng(22), 200_000, frames)
        gate, late = gate_score >= tau, score >= t1
        true_risks = {}
        for t0 in grid:
            missed = (gate & (score < t0)).sum(1)
            exits = missed + (gate & late).sum(1)
            of_a_place = float(np.mean(missed[exits > 0] / exits[exits > 0]))
            true_risks[t0] = of_a_place if unit == "group" else float(missed.sum() / exits.sum())
        groups = [f"site {site}" for site in range(sites) for _ in range(frames)]
        ids = [f"{group}/{frame}" for frame, group in enumerate(groups)]
        chain, claims = Chain(tau=tau, t1=t1, grid=grid), [Claim(Risk.MISS_EXIT, alpha, 0.10)]
        units = Units.of(ids, groups, unit=unit, seed=0)
        rng, labels = np.random.default_rng(23), np.ones(sites * frames, np.int8)
        violations = certified = 0
        for _ in range(DRAWS):
            drawn, gates = (part.ravel().astype(np.float32) for part in site_scores(rng, sites, frames))
            outputs = Stage1Outputs(np.stack([np.zeros_like(drawn), drawn], 1), gates)
            data = LabelledOutputs(outputs, labels, ids, groups)
            found = walk(data, units, chain, claims)
            certified += found.certified > 0
            violations += found.certified > 0 and true_risks[grid[found.certified - 1]] > alpha
        assert exceeds(violations / DRAWS, 0.10) != kept
        assert certified > 0.5 * DRAWS

    @pytest.fixture
    @staticmethod
    def site_scores() -> Callable[..., tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Scores and selection scores of frames that share seven tenths of their variance with their place."""

        def make(rng: np.random.Generator, sites: int, frames: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            both = np.sqrt(0.7) * rng.normal(size=(sites, 1, 2)) + np.sqrt(0.3) * rng.normal(size=(sites, frames, 2))
            return both[..., 0] + 2.6, both[..., 1] + 1.0

        return make


class TestPlaces:
    """Places of unequal length: the long ones are the hard ones, so counting places and counting images differ."""

    DRAWS = 300

    @staticmethod
    def draw(rng: np.random.Generator, places: int, prefix: str) -> LabelledOutputs:
        """One place in five has eight frames, and its roadwork scores lie a standard deviation and a half lower."""
        long = rng.random(places) < 0.2
        roadwork = rng.random(places) < 0.5
        place = np.repeat(np.arange(places), np.where(long, 8, 1))
        labels = roadwork[place].astype(np.int8)
        mean = np.where(roadwork[place], 3.6 - 1.5 * long[place], 0.0) + 0.5 * rng.normal(size=places)[place]
        score = rng.normal(mean, 0.8).astype(np.float32)
        outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.abs(score - 1.5))
        ids, place_ids = names(8 * places, prefix)[: len(place)], names(places, f"{prefix}place ")
        return LabelledOutputs(outputs, labels, ids, [place_ids[i] for i in place.tolist()])

    @pytest.fixture(scope="class")
    @classmethod
    def population(cls) -> tuple[LabelledOutputs, NDArray[np.intp]]:
        """Many rows, and the place of each as a number."""
        rows = cls.draw(np.random.default_rng(31), 60_000, "all/")
        return rows, np.unique(np.asarray(rows.groups), return_inverse=True)[1].reshape(-1)

    @staticmethod
    def by_place_and_by_image(rule: ExitRule, rows: LabelledOutputs, places: NDArray[np.intp]) -> tuple[float, float]:
        exits = rule.exit_labels(rows.outputs)
        exited, missed = rows.positive & (exits >= 0), rows.positive & (exits == 0)
        trials, losses = (np.bincount(places, mask) for mask in (exited, missed))
        return float(np.mean(losses[trials > 0] / trials[trials > 0])), float(missed.sum() / exited.sum())

    def test_a_certificate_by_group_is_true_of_places_and_says_less_of_images(
        self, population: tuple[LabelledOutputs, NDArray[np.intp]]
    ) -> None:
        changes = {"unit": "group", "alpha": 0.05, "gate_size": 3, "grid_size": 150}
        settings = SETTINGS.model_copy(update=changes)
        rng, of_places, of_images, certified = np.random.default_rng(32), 0, 0, 0
        for _ in range(self.DRAWS):
            params = calibrate(self.draw(rng, 600, "s/"), self.draw(rng, 600, "c/"), settings, CONTEXT)
            if params.rule is not None:
                certified += 1
                by_place, by_image = self.by_place_and_by_image(params.rule, *population)
                of_places += by_place > 0.05
                of_images += by_image > 0.05
        assert certified > 0.8 * self.DRAWS
        assert not exceeds(of_places / self.DRAWS, 0.10, self.DRAWS)
        assert exceeds(of_images / self.DRAWS, 0.10, self.DRAWS)


@pytest.mark.parametrize(("alpha", "delta", "count"), [(0.05, 0.20, 150)])
def test_the_walk_is_right_where_the_gate_and_the_score_are_correlated(alpha: float, delta: float, count: int) -> None:
    mean, correlation, tau, t1 = (3.0, 1.0), 0.5, 0.2, 2.5
    grid = tuple(np.linspace(-0.5, 2.0, 14, dtype=np.float32).tolist())
    law = multivariate_normal(mean, [[1, correlation], [correlation, 1]])
    # P(r < x, g >= tau) = P(r < x) - P(r < x, g < tau).
    below = np.array([norm.cdf(x - mean[0]) - law.cdf([x, tau]) for x in [*grid, t1]])
    exits_as_one = norm.sf(tau - mean[1]) - below[-1]
    risk = dict(zip(grid, below[:-1] / (below[:-1] + exits_as_one), strict=True))
    assert min(risk.values()) < alpha < max(risk.values())
    chain, ids = Chain(tau=tau, t1=t1, grid=grid), [f"row {i}" for i in range(count)]
    rng, labels, violations, certified = np.random.default_rng(20), np.ones(count, np.int8), 0, 0
    for _ in range(DRAWS):
        score, gate_score = rng.multivariate_normal(mean, [[1, correlation], [correlation, 1]], count).T
        logits = np.stack([np.zeros(count), score], 1).astype(np.float32)
        data = LabelledOutputs(Stage1Outputs(logits, gate_score.astype(np.float32)), labels, ids, ids)
        found = walk(data, data.units("row", 0), chain, [Claim(Risk.MISS_EXIT, alpha, delta)])
        certified += found.certified > 0
        violations += found.certified > 0 and risk[grid[found.certified - 1]] > alpha
    assert not exceeds(violations / DRAWS, delta)
    assert certified > 0.9 * DRAWS
    assert violations > 0.1 * delta * DRAWS

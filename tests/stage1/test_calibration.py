from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import multivariate_normal, norm

from stage1.binomial import p_value, trials_needed
from stage1.calibration import (
    CalibrationContext,
    CalibrationSettings,
    Candidates,
    LabelledOutputs,
    calibrate,
    exit_one_threshold,
    select,
    walk,
)
from stage1.certificate import ScrcParams
from stage1.decisions import DEFERRED
from stage1.errors import ArtifactError, CertificateError
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy, apply_exit_rule
from stage1.risks import Risk

Maker = Callable[..., LabelledOutputs]
DRAWS = 2000
CONTEXT = CalibrationContext("e" * 64, "p" * 64, prior_uses=0, code_version="test")
SMALL = CalibrationSettings(alpha=0.05, grid_size=40, gate_size=5)


def exceeds(frequency: float, delta: float) -> bool:
    """Three standard errors above delta in `DRAWS` draws."""
    return frequency > delta + 3 * math.sqrt(delta * (1 - delta) / DRAWS)


def of_positives(
    score: NDArray[np.floating], gate_score: NDArray[np.floating], ids: list[str], groups: list[str]
) -> LabelledOutputs:
    """Rows that all show roadwork; negatives have no part in the miss rate."""
    score = score.astype(np.float32)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], axis=1), gate_score.astype(np.float32))
    return LabelledOutputs(outputs, np.ones(len(score), np.int8), ids, groups)


def candidates_of(grid: NDArray[np.floating], *, tau: float, t1: float) -> Candidates:
    return Candidates(tau, t1, tuple(grid.tolist()), 0.0, 0.0)


class TestGuarantee:
    """With probability 1 - delta over the draw of val_calib, the true miss rate on exits is at most alpha."""

    @pytest.mark.parametrize(("alpha", "delta", "count"), [(0.02, 0.10, 500), (0.05, 0.20, 150)])
    def test_holds_for_the_walk_and_not_for_the_empirical_threshold(
        self, alpha: float, delta: float, count: int
    ) -> None:
        mean, correlation, tau, t1 = (3.0, 1.0), 0.5, 0.2, 2.5
        grid = np.linspace(-0.5, 2.0, 14)
        law = multivariate_normal(mean, [[1, correlation], [correlation, 1]])
        # P(r < x, g >= tau) = P(r < x) - P(r < x, g < tau).
        below = np.array([norm.cdf(x - mean[0]) - law.cdf([x, tau]) for x in [*grid, t1]])
        exits_as_one = norm.sf(tau - mean[1]) - below[-1]
        true_risk = dict(zip(grid.tolist(), below[:-1] / (below[:-1] + exits_as_one), strict=True))
        assert min(true_risk.values()) < alpha < max(true_risk.values())

        settings = CalibrationSettings(alpha=alpha, delta=delta, unit="row")
        ids = [f"row {i}" for i in range(count)]
        candidates = candidates_of(grid, tau=tau, t1=t1)
        rng = np.random.default_rng(20)
        violations = naive_violations = certified = 0
        for _ in range(DRAWS):
            score, gate_score = rng.multivariate_normal(mean, [[1, correlation], [correlation, 1]], count).T
            found = walk(of_positives(score, gate_score, ids, ids), candidates, settings)
            if found.t0 is not None:
                certified += 1
                violations += true_risk[found.t0] > alpha
            passing = score[gate_score >= tau]
            missed = (passing[:, None] < grid).sum(0)
            safe = np.flatnonzero(missed <= alpha * (missed + (passing >= t1).sum()))
            naive_violations += len(safe) > 0 and true_risk[float(grid[safe[-1]])] > alpha
        assert not exceeds(violations / DRAWS, delta)
        assert exceeds(naive_violations / DRAWS, 2 * delta) or exceeds(naive_violations / DRAWS, 0.3)
        # The test would be worth nothing if the walk never certified, or never came near the edge.
        assert certified > 0.9 * DRAWS
        assert violations > 0.1 * delta * DRAWS

    def test_needs_one_frame_a_group_where_frames_depend_on_each_other(self) -> None:
        """At a threshold whose true miss rate is just above alpha, certifying is an error."""
        settings = CalibrationSettings(alpha=0.02, delta=0.10, unit="group")
        sites, frames, risk, dependence = 200, 5, 0.0202, 0.6
        a = risk * (1 - dependence) / dependence
        b = (1 - risk) * (1 - dependence) / dependence
        groups = [f"site {site}" for site in range(sites) for _ in range(frames)]
        ids = [f"{group}/{frame}" for frame, group in enumerate(groups)]
        candidates = candidates_of(np.array([0.0]), tau=0.0, t1=5.0)
        rng = np.random.default_rng(21)
        by_group = by_row = 0
        for _ in range(DRAWS):
            missed = rng.random((sites, frames)) < rng.beta(a, b, (sites, 1))
            data = of_positives(np.where(missed, -1.0, 9.0).ravel(), np.zeros(sites * frames), ids, groups)
            by_group += walk(data, candidates, settings).t0 is not None
            by_row += walk(data, candidates, settings.model_copy(update={"unit": "row"})).t0 is not None
        assert not exceeds(by_group / DRAWS, settings.delta)
        assert exceeds(by_row / DRAWS, 1.5 * settings.delta)

    def test_of_groups_holds_for_the_whole_walk(self) -> None:
        """What is certified by group is the miss rate of a random exited frame of a random group that has one."""
        settings = CalibrationSettings(alpha=0.05, delta=0.10, unit="group")
        sites, frames, tau, t1 = 250, 3, 0.3, 2.0
        grid = np.linspace(-0.5, 1.5, 12)

        def draw(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            site = rng.normal(size=(count, 1, 2))
            frame = rng.normal(size=(count, frames, 2))
            both = np.sqrt(0.7) * site + np.sqrt(0.3) * frame
            return both[..., 0] + 2.6, both[..., 1] + 1.0

        score, gate_score = draw(np.random.default_rng(22), 300_000)
        gate, late = gate_score >= tau, score >= t1
        true_risk = {}
        for t0 in grid.tolist():
            exits = (gate & ((score < t0) | late)).sum(1)
            true_risk[t0] = float(np.mean((gate & (score < t0)).sum(1)[exits > 0] / exits[exits > 0]))
        assert min(true_risk.values()) < settings.alpha < max(true_risk.values())
        assert min(abs(risk - settings.alpha) for risk in true_risk.values()) > 0.001

        groups = [f"site {site}" for site in range(sites) for _ in range(frames)]
        ids = [f"{group}/{frame}" for frame, group in enumerate(groups)]
        candidates = candidates_of(grid, tau=tau, t1=t1)
        rng = np.random.default_rng(23)
        violations = certified = 0
        for _ in range(DRAWS):
            score, gate_score = draw(rng, sites)
            found = walk(of_positives(score.ravel(), gate_score.ravel(), ids, groups), candidates, settings)
            if found.t0 is not None:
                certified += 1
                violations += true_risk[found.t0] > settings.alpha
        assert not exceeds(violations / DRAWS, settings.delta)
        assert certified > 0.5 * DRAWS

    @pytest.mark.slow
    @pytest.mark.parametrize("delta", [0.1, 0.2])
    def test_holds_from_end_to_end(self, binormal: Maker, delta: float) -> None:
        settings = SMALL.model_copy(update={"delta": delta})
        violations, draws = 0, 300
        for seed in range(draws):
            params = calibrate(
                binormal(900, seed=seed, prefix="select/", frames=2),
                binormal(900, seed=10_000 + seed, prefix="calib/", frames=2),
                settings,
                CONTEXT,
            )
            rule = params.rule
            if rule is None:
                continue
            fresh = binormal(40_000, seed=20_000 + seed).outputs
            truth = binormal(40_000, seed=20_000 + seed).labels
            labels = apply_exit_rule(fresh.roadwork_score, fresh.select_score, tau=rule.tau, t0=rule.t0, t1=rule.t1)
            exited = labels[truth == 1]
            violations += np.sum(exited == 0) > settings.alpha * np.sum(exited != DEFERRED)
        assert violations / draws <= delta + 3 * math.sqrt(delta * (1 - delta) / draws)


def walk_by_hand(
    data: LabelledOutputs, candidates: Candidates, settings: CalibrationSettings
) -> tuple[float | None, int]:
    """The certified t0 and the number of values tested, row by row."""
    certified = None
    for tested, t0 in enumerate(candidates.grid, start=1):
        losses = trials = 0
        for label, score, gate in zip(data.labels, data.outputs.roadwork_score, data.outputs.select_score, strict=True):
            if label == 1 and gate >= candidates.tau and (score < t0 or score >= candidates.t1):
                trials += 1
                losses += score < t0
        if p_value(int(losses), trials, settings.alpha) > settings.delta:
            return certified, tested
        certified = t0
    return certified, len(candidates.grid)


class TestWalk:
    @pytest.mark.parametrize("seed", range(12))
    def test_is_algorithm_b(self, binormal: Maker, seed: int) -> None:
        settings = SMALL.model_copy(update={"unit": "row"})
        candidates = select(binormal(600, seed=seed), settings)
        data = binormal(600, seed=100 + seed)
        found = walk(data, candidates, settings)
        assert (found.t0, found.tested) == walk_by_hand(data, candidates, settings)

    def test_stops_at_the_first_failure_even_if_a_later_value_would_pass(self) -> None:
        """One hundred certain exits as 1; five early misses; then a flood of exits cannot bring it back."""
        score = np.concatenate([np.full(100, 9.0), np.full(20, -3.0)])
        data = of_positives(score, np.zeros(120), [str(i) for i in range(120)], ["g"] * 120)
        settings = CalibrationSettings(alpha=0.05, delta=0.1, unit="row")
        found = walk(data, candidates_of(np.array([-4.0, -2.0, -1.0]), tau=0.0, t1=5.0), settings)
        assert (found.t0, found.tested, found.losses, found.trials) == (-4.0, 2, 0, 100)
        assert found.p_value == p_value(0, 100, 0.05)

    def test_reports_the_count_at_the_first_value_if_nothing_passes(self) -> None:
        score = np.concatenate([np.full(100, 9.0), np.full(20, -3.0)])
        data = of_positives(score, np.zeros(120), [str(i) for i in range(120)], ["g"] * 120)
        settings = CalibrationSettings(alpha=0.05, delta=0.1, unit="row")
        found = walk(data, candidates_of(np.array([-2.0, -1.0]), tau=0.0, t1=5.0), settings)
        assert (found.t0, found.tested, found.losses, found.trials) == (None, 1, 20, 120)

    def test_certifies_nothing_if_no_positive_exits(self) -> None:
        data = of_positives(np.zeros(500), np.zeros(500), [str(i) for i in range(500)], ["g"] * 500)
        settings = CalibrationSettings(unit="row")
        found = walk(data, candidates_of(np.array([-1.0]), tau=0.0, t1=5.0), settings)
        assert (found.t0, found.trials, found.p_value) == (None, 0, 1.0)

    def test_an_empty_grid_is_a_mistake_of_the_caller(self, binormal: Maker) -> None:
        with pytest.raises(ValueError, match="grid of t0 is empty"):
            walk(binormal(50, seed=1), candidates_of(np.zeros(0), tau=0.0, t1=0.0), SMALL)

    @pytest.mark.parametrize("stretch", [lambda x: x**3, lambda x: 2 * x + 5, lambda x: x**5 - 64])
    def test_only_the_order_of_scores_matters(self, stretch: Callable[[Any], Any]) -> None:
        """On whole numbers the transforms are exact in single precision."""
        rng = np.random.default_rng(30)
        score, gate = rng.integers(-3, 18, 800).astype(float), rng.integers(-4, 9, 800).astype(float)
        ids = [str(i) for i in range(800)]
        grid = np.arange(-3.0, 9.0)
        settings = CalibrationSettings(alpha=0.2, unit="row")
        plain = walk(of_positives(score, gate, ids, ids), candidates_of(grid, tau=-2.0, t1=10.0), settings)
        stretched = walk(
            of_positives(stretch(score), stretch(gate), ids, ids),
            candidates_of(stretch(grid), tau=stretch(-2.0), t1=stretch(10.0)),
            settings,
        )
        assert plain.t0 is not None
        assert stretched == replace(plain, t0=stretch(plain.t0))

    def test_the_order_of_rows_does_not_matter(self, binormal: Maker) -> None:
        data, candidates = binormal(600, seed=3, frames=3), select(binormal(600, seed=4), SMALL)
        order = np.random.default_rng(5).permutation(600)
        places = order.tolist()
        shuffled = LabelledOutputs(
            data.outputs.rows(order),
            data.labels[order],
            [data.row_ids[i] for i in places],
            [data.groups[i] for i in places],
        )
        assert walk(shuffled, candidates, SMALL) == walk(data, candidates, SMALL)


class TestSelect:
    @given(st.lists(st.integers(-5, 5), min_size=1, max_size=50), st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.99]))
    def test_t1_is_the_smallest_that_keeps_the_false_alarms(self, scores: list[int], rate: float) -> None:
        negatives = np.array(scores, np.float32)
        t1 = exit_one_threshold(negatives, rate)
        allowed = math.floor(rate * len(scores))
        assert np.sum(negatives >= t1) <= allowed
        below = np.nextafter(np.float32(t1), np.float32(-np.inf))
        assert np.sum(negatives >= below) > allowed

    def test_without_negatives_everything_may_exit_as_1(self) -> None:
        assert exit_one_threshold(np.zeros(0, np.float32), 0.02) == -math.inf

    @pytest.mark.parametrize("seed", range(5))
    def test_freezes_an_increasing_grid_up_to_t1_behind_a_gate_of_the_data(self, binormal: Maker, seed: int) -> None:
        data = binormal(500, seed=seed)
        chosen = select(data, SMALL)
        assert all(a < b for a, b in pairwise(chosen.grid))
        assert chosen.grid[-1] <= chosen.t1
        assert len(chosen.grid) <= SMALL.grid_size
        assert np.mean(data.outputs.select_score < chosen.tau) <= 0.6
        negatives = data.outputs.roadwork_score[(data.labels == 0) & (data.outputs.select_score >= chosen.tau)]
        assert np.mean(negatives >= chosen.t1) <= SMALL.false_alarm_rate

    def test_promises_the_coverage_of_the_best_safe_pair(self, binormal: Maker) -> None:
        """Against all pairs of gate and t0, by the definition of the smoothed miss rate."""
        settings = SMALL.model_copy(update={"unit": "row"})
        data = binormal(500, seed=9)
        score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
        best = 0.0
        for tau in np.quantile(gate_score, np.linspace(0, 0.6, settings.gate_size)):
            gate = gate_score >= np.float32(tau)
            t1 = exit_one_threshold(score[gate & (data.labels == 0)], settings.false_alarm_rate)
            for t0 in np.quantile(score[gate], np.linspace(0, 1, settings.grid_size + 1)[1:]):
                if t0 > t1:
                    continue
                exits = gate & ((score < np.float32(t0)) | (score >= t1))
                positives = exits & (data.labels == 1)
                smoothed = (np.sum(positives & (score < np.float32(t0))) + 1) / (positives.sum() + 2)
                if smoothed <= settings.safety * settings.alpha:
                    best = max(best, float(exits.mean()))
        assert select(data, settings).expected_coverage == pytest.approx(best)

    def test_a_tenth_of_what_it_would_defer_is_ambiguous(self, binormal: Maker) -> None:
        data = binormal(3000, seed=2, separation=0.0)
        chosen = select(data, SMALL)
        assert chosen.expected_coverage == 0.0
        score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
        labels = apply_exit_rule(score, gate_score, tau=chosen.tau, t0=-math.inf, t1=chosen.t1)
        ambiguous = gate_score[labels == DEFERRED] < chosen.ambiguous_below
        assert np.mean(ambiguous) == pytest.approx(SMALL.ambiguous_share, abs=1e-3)

    def test_a_model_that_says_the_same_of_everything_is_survived(self, outputs_of: Callable[..., Any]) -> None:
        labels = np.arange(100).astype(np.int8) % 2
        ids = [str(i) for i in range(100)]
        chosen = select(LabelledOutputs(outputs_of(np.zeros(100)), labels, ids, ids), SMALL)
        assert chosen.expected_coverage == 0.0

    @pytest.mark.parametrize("factor", [0.25, 2.0, 1024.0])
    def test_units_of_the_logit_do_not_matter(self, binormal: Maker, factor: float) -> None:
        """Powers of two scale every float and every quantile exactly."""
        rows = binormal(700, seed=6)
        scaled = replace(
            rows, outputs=Stage1Outputs(rows.outputs.logits * np.float32(factor), rows.outputs.select_score)
        )
        plain, other = (
            calibrate(data, binormal_scaled(binormal, k), SMALL, CONTEXT) for data, k in ((rows, 1.0), (scaled, factor))
        )
        assert plain.rule is not None
        assert other.rule is not None
        assert (other.tested, other.p_value, other.risks) == (plain.tested, plain.p_value, plain.risks)
        assert other.rule.t0 == pytest.approx(factor * plain.rule.t0, rel=1e-6)


def binormal_scaled(binormal: Maker, factor: float) -> LabelledOutputs:
    rows = binormal(700, seed=7)
    return replace(rows, outputs=Stage1Outputs(rows.outputs.logits * np.float32(factor), rows.outputs.select_score))


class TestCalibrate:
    def test_certifies_a_good_model(self, certificate: Callable[..., ScrcParams], binormal: Maker) -> None:
        params = certificate()
        assert params.status == "CERTIFIED"
        misses = params.risks[Risk.MISS_EXIT]
        assert params.p_value == p_value(misses.events, misses.trials, params.alpha)
        assert misses.upper <= params.alpha
        assert params.p_value <= params.delta
        assert params.rule is not None
        assert params.rule.t0 == params.grid[params.tested - 2]
        assert params.exit_coverage is not None
        decided = ScrcPolicy(params).decide(binormal(1200, seed=2, prefix="calib/").outputs)
        assert params.exit_coverage.estimate == pytest.approx(decided.exits.mean())

    def test_says_what_it_proved(self, certificate: Callable[..., ScrcParams]) -> None:
        params = certificate()
        misses = params.risks[Risk.MISS_EXIT]
        assert "With 90% confidence over the draw of the calibration groups" in params.statement
        assert (
            f"at most 5.0% are exited as non-roadwork (k = {misses.events} of m = {misses.trials};" in params.statement
        )

    def test_says_how_often_the_rows_were_used_before(self, binormal: Maker) -> None:
        context = replace(CONTEXT, prior_uses=3)
        params = calibrate(binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c"), SMALL, context)
        assert params.prior_uses == 3
        assert "used 3 times before" in params.statement

    def test_the_risks_of_rows_are_in_order(self, binormal: Maker) -> None:
        settings = SMALL.model_copy(update={"unit": "row"})
        risks = calibrate(binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c"), settings, CONTEXT).risks
        assert risks[Risk.MISS_ALL].upper <= risks[Risk.MISS_GATED].upper <= risks[Risk.MISS_EXIT].upper

    def test_too_few_positives_say_how_many_are_missing(self, binormal: Maker) -> None:
        calib = binormal(90, seed=2, prefix="c")
        positives, needed = int(calib.labels.sum()), trials_needed(0, 0.05, 0.1)
        params = calibrate(binormal(900, seed=1, prefix="s"), calib, SMALL, CONTEXT)
        assert params.status == "INFEASIBLE"
        assert params.rule is None
        assert (params.tested, params.positives) == (0, positives)
        assert f"has {positives} independent positive groups; " in params.reason
        assert f"Label at least {needed - positives} more roadwork groups" in params.reason

    def test_frames_of_a_group_are_not_more_positives(self, binormal: Maker) -> None:
        select_rows = binormal(900, seed=1, prefix="s")
        params = calibrate(select_rows, binormal(900, seed=2, prefix="c", frames=30), SMALL, CONTEXT)
        assert params.positives <= 30
        assert params.status == "INFEASIBLE"

    def test_a_bad_model_says_what_it_would_take(self, binormal: Maker) -> None:
        good, bad = binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c", separation=-3.0)
        params = calibrate(good, bad, SMALL, CONTEXT)
        assert (params.status, params.tested) == ("INFEASIBLE", 1)
        assert "at the most cautious threshold" in params.reason
        assert "or a model that misses fewer" in params.reason

    def test_what_cannot_be_certified_exits_nowhere(
        self, binormal: Maker, certificate: Callable[..., ScrcParams]
    ) -> None:
        decided = ScrcPolicy(certificate(feasible=False)).decide(binormal(500, seed=3).outputs)
        assert not decided.exits.any()

    def test_refuses_sets_that_share_a_group(self, binormal: Maker) -> None:
        rows = binormal(300, seed=1, frames=2)
        odd, even = (np.arange(300) % 2 == side for side in (0, 1))

        def half(mask: NDArray[np.bool_]) -> LabelledOutputs:
            index = np.flatnonzero(mask).tolist()
            return LabelledOutputs(
                rows.outputs.rows(mask),
                rows.labels[mask],
                [rows.row_ids[i] for i in index],
                [rows.groups[i] for i in index],
            )

        with pytest.raises(ValueError, match="share 150 groups, for example '1/0'"):
            calibrate(half(odd), half(even), SMALL, CONTEXT)

    def test_names_the_rows_it_used_in_any_order(self, binormal: Maker) -> None:
        select_rows, calib = binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c")
        order = np.arange(900)[::-1]
        turned = LabelledOutputs(
            calib.outputs.rows(order), calib.labels[order], list(calib.row_ids)[::-1], list(calib.groups)[::-1]
        )
        assert calibrate(select_rows, calib, SMALL, CONTEXT) == calibrate(select_rows, turned, SMALL, CONTEXT)

    def test_rows_of_different_number_are_a_mistake(self, outputs_of: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="differ in length"):
            LabelledOutputs(outputs_of(np.zeros(3)), np.zeros(3, np.int8), ["a", "b"], ["a", "b", "c"])


def edited(params: ScrcParams, **changes: Any) -> str:
    """The file with some values replaced, by dotted path (`rule__t0`)."""
    tree = json.loads(params.to_json())
    for path, value in changes.items():
        *parents, leaf = path.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return json.dumps(tree)


def loosened(params: ScrcParams) -> Iterator[dict[str, Any]]:
    """Every way to exit more than was proved by changing a value or two."""
    assert params.rule is not None
    assert params.p_value is not None
    proved = params.grid.index(params.rule.t0)
    for later in range(proved + 1, len(params.grid)):
        yield {"rule__t0": params.grid[later]}
        yield {"rule__t0": params.grid[later], "tested": later + 2}
        yield {"rule__t0": params.grid[later], "tested": len(params.grid)}
    yield {"rule__t0": math.nextafter(params.rule.t0, math.inf)}
    yield {
        "rule__t0": params.rule.t0 + 0.1,
        "grid": [*params.grid[:proved], params.rule.t0 + 0.1, *params.grid[proved + 1 :]],
    }
    yield {"rule__t1": params.rule.t1 - 0.1}
    yield {"rule__tau": params.rule.tau - 0.1}
    yield {"p_value": params.delta}
    yield {"p_value": 0.5}
    yield {"p_value": None}
    yield {"alpha": params.alpha / 2}
    yield {"delta": params.delta / 2}
    yield {"unit": "row"}
    yield {"risks": {}}
    yield {"risks__D2__events": 0}
    yield {"status": "INFEASIBLE"}
    yield {"seal": ""}
    yield {"seal": "0" * 64}
    yield {"binding__engine_sha256": "f" * 64}


class TestCertificate:
    def test_survives_the_disk(self, tmp_path: Path, certificate: Callable[..., ScrcParams]) -> None:
        for name, params in (("yes", certificate()), ("no", certificate(feasible=False))):
            params.write(tmp_path / name)
            assert ScrcParams.read(tmp_path / name) == params

    def test_cannot_be_loosened_by_hand(self, tmp_path: Path, certificate: Callable[..., ScrcParams]) -> None:
        params, path = certificate(), tmp_path / "scrc_params.json"
        path.write_text(edited(params))
        assert ScrcParams.read(path) == params
        for changes in loosened(params):
            path.write_text(edited(params, **changes))
            with pytest.raises(ArtifactError):
                ScrcParams.read(path)

    def test_cannot_be_loosened_after_a_walk_to_the_end_of_the_grid(self, binormal: Maker) -> None:
        """Then the number of tests alone does not tell whether the last value passed."""
        grid = np.linspace(-2.0, 4.0, 4)
        score = np.concatenate([np.full(200, 9.0), np.full(60, 3.0)])
        data = of_positives(score, np.zeros(260), [str(i) for i in range(260)], ["g"] * 260)
        settings = SMALL.model_copy(update={"unit": "row"})
        found = walk(data, candidates_of(grid, tau=0.0, t1=5.0), settings)
        assert (found.tested, found.t0) == (4, 2.0)
        template = calibrate(binormal(900, seed=1, prefix="s"), binormal(900, seed=2, prefix="c"), settings, CONTEXT)
        tree = json.loads(template.to_json())
        tree |= {"grid": grid.tolist(), "tested": 4, "rule": {"tau": 0.0, "t0": 2.0, "t1": 5.0}, "seal": ""}
        tree["risks"]["D2"] |= {"events": found.losses, "trials": found.trials}
        tree["p_value"] = found.p_value
        params = ScrcParams.model_validate(tree)
        with pytest.raises(ValueError, match="seal"):
            ScrcParams.model_validate_json(edited(params, rule__t0=4.0))

    @pytest.mark.parametrize(
        ("change", "problem"),
        [
            ({"status": "CERTIFIED"}, "status is CERTIFIED but the rule is missing"),
            ({"rule": {"tau": 0.0, "t0": 1.0, "t1": 2.0}}, "status is INFEASIBLE but the rule is present"),
            (
                {"status": "CERTIFIED", "rule": {"tau": 0.0, "t0": 1.0, "t1": 2.0}},
                "t0 = 1.0 is not where a walk of 0 steps over this grid stops",
            ),
        ],
    )
    def test_of_nothing_cannot_become_one_of_something(
        self, certificate: Callable[..., ScrcParams], change: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(ValueError, match=problem):
            ScrcParams.model_validate_json(edited(certificate(feasible=False), **change))

    def test_thresholds_are_in_order(self, certificate: Callable[..., ScrcParams]) -> None:
        with pytest.raises(ValueError, match="is above t1"):
            ScrcParams.model_validate_json(edited(certificate(), rule__t1=-99.0))

    def test_is_true_of_one_engine_and_one_preprocess(self, certificate: Callable[..., ScrcParams]) -> None:
        params = certificate()
        params.check_binding(engine_sha256="e" * 64, preprocess_sha256="p" * 64)
        with pytest.raises(CertificateError, match=r"is for engine e{12}, this is x{12}: calibrate again"):
            params.check_binding(engine_sha256="x" * 64, preprocess_sha256="p" * 64)
        with pytest.raises(CertificateError, match=r"is for preprocess p{12}, this is x{12}: calibrate again"):
            params.check_binding(engine_sha256="e" * 64, preprocess_sha256="x" * 64)

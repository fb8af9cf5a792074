"""Rules of the literature: what they do, and where they are infeasible."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from stage1.baselines.literature import (
    ReferenceRules,
    conformal_budget,
    reference_rules,
    scrc_i,
    scrc_i_rows_needed,
    scrc_t,
    scrc_t_label,
    selected,
    symmetric_rule,
)
from stage1.baselines.softmax import Thresholds, swept_thresholds
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.errors import ArtifactError
from stage1.policy import RulePolicy

Maker = Callable[..., LabelledOutputs]
KNOWN = np.linspace(0, 4, 100, dtype=np.float32)


class TestBudget:
    @given(st.integers(1, 5000), st.sampled_from([0.01, 0.02, 0.05, 0.1, 0.2]))
    def test_is_the_most_losses_whose_risk_is_at_most_alpha(self, rows: int, alpha: float) -> None:
        """With k losses allowed among m continuous scores the risk is exactly (k + 1) / (m + 1)."""
        allowed, whole = conformal_budget(rows, alpha), round(1 / alpha)
        assert (allowed + 1) * whole <= rows + 1 < (allowed + 2) * whole

    @pytest.mark.parametrize(("alpha", "fewest"), [(0.02, 49), (0.1, 9), (0.05, 19)])
    def test_is_feasible_from_there_on(self, alpha: float, fewest: int) -> None:
        assert conformal_budget(fewest, alpha) == 0
        assert conformal_budget(fewest - 1, alpha) < 0


class TestGate:
    @given(
        st.lists(st.integers(-20, 20), min_size=1, max_size=40, unique=True),
        st.integers(-21, 21),
        st.floats(0.05, 0.95),
    )
    def test_needs_no_recomputation_for_a_test_image(self, scores: list[int], test: int, coverage: float) -> None:
        """Against Eq. 11 and 13 with the test image among the n + 1 points, literally."""
        if test in scores:
            return
        points = np.array([*scores, test], np.float32)
        rejected = (1 - coverage) * len(points)
        levels = [v for v in np.unique(points) if np.sum(points < v) <= rejected + 1e-9]
        level = levels[-1]
        tau, rows = selected(points[:-1], coverage)
        assert (test >= tau) == bool(test >= level)
        if test >= level:
            assert rows.tolist() == (points[:-1] >= level).tolist()


class TestScrcT:
    def test_its_sets_are_those_of_the_paper(self, binormal: Maker) -> None:
        """Label k is in the set where its probability is at least 1 - lambda; a set is never empty."""
        data = binormal(600, seed=1)
        found = scrc_t(data, alpha=0.1, coverage=0.8)
        assert found.rule is not None
        probability = expit(data.outputs.roadwork_score.astype(np.float64))
        needed = expit(found.rule.t0)
        one, zero = probability >= needed, 1 - probability >= needed
        assert (one | zero).all()
        gate = data.outputs.select_score >= found.rule.tau
        expected = np.where(gate & one & ~zero, 1, np.where(gate & zero & ~one, 0, -1))
        assert RulePolicy(found.rule).decide(data.outputs).exit_label.tolist() == expected.tolist()

    def test_too_few_rows_say_how_many_it_takes(self, binormal: Maker) -> None:
        found = scrc_t(binormal(40, seed=1), alpha=0.02, coverage=0.8)
        assert found.rule is None
        assert found.reason == "32 selected rows, at least 49 are needed"
        label = scrc_t_label(binormal(90, seed=1), alpha=0.02, coverage=0.8, t1=1.0)
        assert label.rule is None
        assert "selected positives, at least 49 are needed" in label.reason


class TestScrcI:
    @pytest.mark.parametrize(
        ("alpha", "coverage", "pairs", "rows"),
        [
            (0.02, 0.5, 1, (19_190, 22_796)),
            (0.02, 0.5, 100, (42_584, 46_200)),
            (0.02, 0.8, 1, (7_496, 8_905)),
            (0.02, 0.8, 100, (16_635, 18_047)),
            (0.02, 0.8, 10_000, (25_736, 27_154)),
            (0.05, 0.8, 100, (2_768, 3_009)),
            (0.10, 0.8, 10_000, (1_119, 1_186)),
        ],
    )
    def test_rows_it_takes_without_a_single_error(
        self, alpha: float, coverage: float, pairs: int, rows: tuple[int, int]
    ) -> None:
        found = tuple(scrc_i_rows_needed(alpha, delta, coverage, pairs) for delta in (0.1, 0.05))
        assert found == pytest.approx(rows, abs=1)

    def test_is_infeasible_on_a_thousand_rows_and_says_so(self, binormal: Maker) -> None:
        found = scrc_i(binormal(1000, seed=1), KNOWN, alpha=0.02, delta=0.1, coverage=0.8)
        assert found.rule is None
        assert f"without a single error it takes {scrc_i_rows_needed(0.02, 0.1, 0.8, 100)} rows" in found.reason

    def test_is_the_printed_rule_where_it_is_feasible(self, binormal: Maker) -> None:
        data, alpha, delta = binormal(20_000, seed=2, separation=4.0), 0.1, 0.1
        found = scrc_i(data, binormal(5000, seed=9).outputs.select_score, alpha=alpha, delta=delta, coverage=0.7)
        assert found.rule is not None
        select_score, score = data.outputs.select_score, data.outputs.roadwork_score
        gate = select_score >= found.rule.tau
        assert gate.mean() >= 0.7
        probability = expit(np.where(data.positive, score, -score).astype(np.float64))
        correction = math.sqrt(math.log(4 * 100 / delta) / (2 * len(data)))
        certain = gate.mean() - math.sqrt(math.log(4 / delta) / (2 * len(data)))
        levels = np.linspace(0.5, 0, 10)
        fits = [np.mean(gate & (probability < p - 1e-9)) + correction <= alpha * certain for p in levels]
        assert expit(found.rule.t0) == pytest.approx(levels[fits.index(True)])


class TestSweptThresholds:
    def test_let_as_much_exit_as_the_observed_miss_rate_allows(self, binormal: Maker) -> None:
        data = binormal(2000, seed=3)
        swept = swept_thresholds(data, alpha=0.05, false_alarm_rate=0.02)
        assert swept.certified is False
        rate = swept.miss_rate.estimate
        assert rate is not None
        assert rate <= 0.05
        decided = swept.policy.decide(data.outputs)
        missed = int(np.sum((decided.exit_label == 0) & data.positive))
        assert (swept.miss_rate.events, swept.miss_rate.trials) == (missed, int(np.sum(decided.exits & data.positive)))
        # One more positive below the threshold would be one too many.
        assert (missed + 1) / (swept.miss_rate.trials + 1) > 0.05
        assert np.mean(decided.exit_label[~data.positive] == 1) <= 0.02

    def test_are_written_as_uncertified_and_cannot_be_read_otherwise(self, binormal: Maker, tmp_path: Path) -> None:
        swept, path = swept_thresholds(binormal(500, seed=3), alpha=0.05, false_alarm_rate=0.02), tmp_path / "t.json"
        swept.write(path)
        assert Thresholds.read(path) == swept
        path.write_text(path.read_text().replace('"certified": false', '"certified": true'))
        with pytest.raises(ArtifactError, match="certified"):
            Thresholds.read(path)

    def test_defer_what_might_be_missed_where_nothing_looks_safe(self, binormal: Maker) -> None:
        data = binormal(300, seed=3, separation=-4.0)
        swept = swept_thresholds(data, alpha=0.05, false_alarm_rate=0.0)
        assert not (swept.policy.decide(data.outputs).exit_label == 0).any()


def test_all_of_them_survive_the_disk(binormal: Maker, tmp_path: Path) -> None:
    candidates = select(binormal(900, seed=1), CalibrationSettings(gate_size=5, grid_size=50))
    rules = reference_rules(
        binormal(900, seed=1), binormal(900, seed=2), candidates, alpha=0.02, delta=0.1, coverage=0.8
    )
    assert [(rule.name, rule.rule is None) for rule in rules.rules] == [
        ("scrc_i", True),
        ("scrc_t", False),
        ("scrc_t_label", False),
        ("crc", False),
    ]
    rules.write(tmp_path / "r.json")
    assert ReferenceRules.read(tmp_path / "r.json") == rules


def test_a_barrier_of_one_half_leaves_only_the_tie() -> None:
    rule = symmetric_rule(0.0, 0.0)
    assert rule.t0 == 0.0
    assert rule.t1 == np.nextafter(np.float32(0), np.float32(1))

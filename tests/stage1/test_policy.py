from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stage1.baselines.softmax import ThresholdPolicy
from stage1.certificate.params import ScrcParams
from stage1.decisions import DEFERRED, Decisions, Level
from stage1.errors import OutputsError
from stage1.exit_rule import ExitRule, HeadAgreement, apply_exit_rule, eligible
from stage1.outputs import Stage1Outputs
from stage1.policy import Policy, RulePolicy, ScrcPolicy

# Coarse values, so that ties with the thresholds are common.
COARSE = st.integers(-8, 8).map(lambda quarters: quarters / 4)
FLOATS = st.floats(-20, 20, width=32)


def literally(score: float, select_score: float, *, tau: float, t0: float, t1: float) -> int:
    """The exit rule, one image at a time, in the order in which it is stated."""
    if select_score < tau:
        return DEFERRED
    if score < t0:
        return 0
    if score >= t1:
        return 1
    return DEFERRED


class TestExitRule:
    @given(st.lists(st.tuples(COARSE, COARSE), max_size=30), COARSE, COARSE, COARSE)
    def test_is_the_stated_rule(self, rows: list[tuple[float, float]], tau: float, a: float, b: float) -> None:
        t0, t1 = sorted((a, b))
        score, gate = np.array(rows, np.float32).reshape(-1, 2).T
        expected = [literally(r, g, tau=tau, t0=t0, t1=t1) for r, g in rows]
        assert apply_exit_rule(score, gate, tau=tau, t0=t0, t1=t1).tolist() == expected

    def test_below_is_strict_and_above_is_not(self) -> None:
        score = np.array([-1, 0, 0.5, 1, 2], np.float32)
        labels = apply_exit_rule(score, np.zeros(5, np.float32), tau=0.0, t0=0.0, t1=1.0)
        assert labels.tolist() == [0, DEFERRED, DEFERRED, 1, 1]

    def test_touching_thresholds_leave_nothing_between(self) -> None:
        score = np.array([-1, 0, 1], np.float32)
        assert apply_exit_rule(score, score * 0, tau=0.0, t0=0.0, t1=0.0).tolist() == [0, 1, 1]

    def test_the_gate_holds_back_both_labels(self) -> None:
        score = np.array([-9, 9], np.float32)
        below = np.nextafter(np.zeros(2, np.float32), np.float32(-1))
        assert apply_exit_rule(score, below, tau=0.0, t0=-1.0, t1=1.0).tolist() == [DEFERRED, DEFERRED]

    @given(st.lists(st.tuples(COARSE, COARSE), min_size=1, max_size=30), COARSE, COARSE, COARSE, COARSE)
    def test_a_higher_t0_only_adds_exits_as_0(
        self, rows: list[tuple[float, float]], tau: float, a: float, b: float, c: float
    ) -> None:
        lower, higher, t1 = sorted((a, b, c))
        score, gate = np.array(rows, np.float32).T
        before = apply_exit_rule(score, gate, tau=tau, t0=lower, t1=t1)
        after = apply_exit_rule(score, gate, tau=tau, t0=higher, t1=t1)
        changed = before != after
        assert (before[changed] == DEFERRED).all()
        assert (after[changed] == 0).all()


class TestAgreement:
    """Heads that must say the label an image exits with: class 0 of a head is no roadwork, all others are some."""

    RULE = ExitRule(tau=0.0, t0=-1.0, t1=1.0, agreement=(HeadAgreement(head="works", cut=0.0),))

    @staticmethod
    def outputs(score: list[float], head: list[list[float]]) -> Stage1Outputs:
        logits = np.stack([np.zeros(len(score)), score], axis=1).astype(np.float32)
        return Stage1Outputs(logits, np.zeros(len(score), np.float32), {"works": np.array(head, np.float32)})

    def test_nothing_exits_against_a_head(self) -> None:
        none, active, planned = [9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]
        outputs = self.outputs([-5, -5, 5, 5, 5, 0], [none, active, none, active, planned, none])
        assert self.RULE.exit_labels(outputs).tolist() == [0, DEFERRED, DEFERRED, 1, 1, DEFERRED]

    def test_every_head_must_agree(self) -> None:
        logits = np.array([[0, -5], [0, -5], [0, 5], [0, 5]], np.float32)
        yes, no = [-4.0, 4.0], [4.0, -4.0]
        heads = {"a": np.array([no, no, yes, yes], np.float32), "b": np.array([no, yes, yes, no], np.float32)}
        both = tuple(HeadAgreement(head=name, cut=0.0) for name in "ab")
        rule = ExitRule(tau=-9.0, t0=-1.0, t1=1.0, agreement=both)
        exits = rule.exit_labels(Stage1Outputs(logits, np.zeros(4, np.float32), heads))
        assert exits.tolist() == [0, DEFERRED, 1, DEFERRED]

    def test_a_missing_head_is_an_error(self, outputs_of: Callable[..., Stage1Outputs]) -> None:
        with pytest.raises(OutputsError, match="no head 'works'; the outputs have no named heads"):
            self.RULE.exit_labels(outputs_of(np.zeros(2)))

    @given(st.lists(st.tuples(COARSE, COARSE, COARSE), min_size=1, max_size=30), COARSE, COARSE, COARSE, COARSE)
    def test_what_is_left_open_is_the_rule(
        self, rows: list[tuple[float, float, float]], tau: float, a: float, b: float, cut: float
    ) -> None:
        """`eligible`, which calibration counts with, and `exit_labels`, which decides, are one rule."""
        t0, t1 = sorted((a, b))
        score, gate, head = np.array(rows, np.float32).reshape(-1, 3).T
        outputs = self.outputs(score.tolist(), np.stack([np.zeros(len(head)), head], 1).tolist())
        outputs = Stage1Outputs(outputs.logits, gate.copy(), outputs.heads)
        rule = ExitRule(tau=tau, t0=t0, t1=t1, agreement=(HeadAgreement(head="works", cut=cut),))
        left = eligible(outputs, tau=tau, t1=t1, agreement=rule.agreement)
        as_zero = left.zero & (left.score < np.float32(t0))
        expected = np.where(as_zero, 0, np.where(left.one, 1, DEFERRED))
        assert rule.exit_labels(outputs).tolist() == expected.tolist()


class TestScrcPolicy:
    def test_decides_as_the_certificate_says(
        self, certificate: Callable[..., ScrcParams], outputs_of: Callable[..., Stage1Outputs]
    ) -> None:
        params = certificate()
        rule = params.rule
        assert rule is not None
        sure = rule.tau + 1
        score = [rule.t0 - 1, rule.t1 + 1, (rule.t0 + rule.t1) / 2, rule.t0 - 1, rule.t0 - 1]
        select = [sure, sure, sure, rule.tau - 1e-3, min(rule.tau, params.ambiguous_below) - 1]
        decided = ScrcPolicy(params).decide(outputs_of(np.array(score), np.array(select)))
        assert decided.exit_label.tolist() == [0, 1, DEFERRED, DEFERRED, DEFERRED]
        assert decided.level[0] == Level.CONFIDENT_0
        assert decided.level[1] == Level.CONFIDENT_1
        assert decided.level[4] == Level.AMBIGUOUS

    def test_the_gate_is_the_rules(
        self, certificate: Callable[..., ScrcParams], outputs_of: Callable[..., Stage1Outputs]
    ) -> None:
        params = certificate()
        assert params.rule is not None
        tau = np.float32(params.rule.tau)
        select = np.array([np.nextafter(tau, np.float32(-99)), tau, np.nextafter(tau, np.float32(99))])
        passes = ScrcPolicy(params).gate(outputs_of(np.zeros(3), select))
        assert passes.tolist() == (select >= tau).tolist() == [False, True, True]

    @given(arrays(np.float32, st.integers(1, 40), elements=FLOATS))
    def test_infeasible_defers_everything(
        self, certificate: Callable[..., ScrcParams], outputs_of: Callable[..., Stage1Outputs], values: np.ndarray
    ) -> None:
        policy = ScrcPolicy(certificate(feasible=False))
        outputs = outputs_of(values, values[::-1])
        decided = policy.decide(outputs)
        assert not decided.exits.any()
        assert not policy.gate(outputs).any()
        assert set(decided.level.tolist()) <= {Level.UNCERTAIN, Level.AMBIGUOUS}


class TestThresholdPolicy:
    def test_exits_only_beyond_the_two_probabilities(self, outputs_of: Callable[..., Stage1Outputs]) -> None:
        probability = np.array([0.02, 0.11, 0.13, 0.5, 0.87, 0.89, 0.999])
        decided = ThresholdPolicy().decide(outputs_of(np.log(probability / (1 - probability))))
        assert decided.exit_label.tolist() == [0, 0, DEFERRED, DEFERRED, DEFERRED, 1, 1]
        assert decided.level.tolist() == [0, 0, 2, 2, 2, 1, 1]

    def test_extreme_scores_are_no_trouble(self, outputs_of: Callable[..., Stage1Outputs]) -> None:
        assert ThresholdPolicy().decide(outputs_of(np.array([-1e30, 1e30]))).exit_label.tolist() == [0, 1]


def test_without_a_rule_everything_is_deferred(outputs_of: Callable[..., Stage1Outputs]) -> None:
    assert not RulePolicy(None).decide(outputs_of(np.linspace(-9, 9, 50))).exits.any()


@pytest.mark.parametrize("name", ["scrc", "threshold"])
@given(logits=arrays(np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=FLOATS))
def test_one_row_or_many_are_decided_alike(
    certificate: Callable[..., ScrcParams], name: str, logits: np.ndarray
) -> None:
    policy: Policy = ScrcPolicy(certificate()) if name == "scrc" else ThresholdPolicy()
    outputs = Stage1Outputs(logits[:, :2], logits[:, 2].copy())
    together: Decisions = policy.decide(outputs)
    for row in range(len(outputs)):
        alone = policy.decide(outputs.rows(slice(row, row + 1)))
        assert alone.exit_label[0] == together.exit_label[row]
        assert alone.level[0] == together.level[row]

"""A live rule that does less than it is certified to."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.certificate.caution import Caution, statement_under
from stage1.certificate.params import ScrcParams
from stage1.exit_rule import ExitRule
from stage1.outputs import Stage1Outputs
from stage1.policy import ScrcPolicy

FINITE = st.floats(-50, 50, width=32)


@given(
    st.lists(FINITE, min_size=1, max_size=40),
    st.floats(-5, 5),
    st.floats(0, 5),
    st.floats(0, 1e6),
    st.booleans(),
    st.booleans(),
)
def test_nothing_is_ever_looser_than_certified(scores, t0, above, theta, exits0, exits) -> None:
    """Whatever the caution: an exit with 0 is one of the certified rule, and exits with 1 are the same or none."""
    score = np.array(scores, np.float32)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.abs(score))
    rule = ExitRule(tau=0.5, t0=t0, t1=t0 + above, gate_score="margin")
    certified = rule.exit_labels(outputs)
    cautious = Caution(theta, exits0, exits).applied(rule)
    if not exits:
        assert cautious is None
        return
    assert cautious is not None
    found = cautious.exit_labels(outputs)
    assert set(np.flatnonzero(found == 0)) <= set(np.flatnonzero(certified == 0))
    assert np.array_equal(found == 1, certified == 1)
    assert exits0 or not (found == 0).any()


def test_a_threshold_is_only_lowered() -> None:
    for theta in (-0.1, float("nan")):
        with pytest.raises(ValueError, match="only ever lowered"):
            Caution(theta)


def test_the_policy_decides_by_the_lowered_threshold(certificate: Callable[..., ScrcParams], outputs_of) -> None:
    params = certificate()
    assert params.rule is not None
    between = outputs_of(np.array([params.rule.t0 - 0.01]), np.array([100.0]))
    assert ScrcPolicy(params).decide(between).exit_label.tolist() == [0]
    assert ScrcPolicy(params, Caution(0.5)).decide(between).exit_label.tolist() == [-1]
    assert ScrcPolicy(params, Caution(exits=False)).decide(between).exit_label.tolist() == [-1]
    sure = outputs_of(np.array([20.0]), np.array([100.0]))
    assert ScrcPolicy(params, Caution(exits0=False)).decide(sure).exit_label.tolist() == [1]


def test_the_certificate_says_what_is_implied_and_what_is_not(certificate: Callable[..., ScrcParams]) -> None:
    missed, omitted = certificate(), certificate(risk="D3")
    assert statement_under(missed, Caution()) == missed.statement
    told = statement_under(missed, Caution(0.25))
    assert "0.25 logits below the certified" in told
    assert "Implied by what was certified at the larger t0: among roadwork images on which Stage-1 exits" in told
    assert "and not at this one: among images exited as non-roadwork" in statement_under(omitted, Caution(0.25))
    covered = certificate(mode="coverage", coverage=0.3)
    told = statement_under(covered, Caution(exits0=False))
    assert "Nothing exits as no roadwork" in told
    assert "and not at this one: at least 30.0% of all images exit" in told
    assert "not used" in statement_under(missed, Caution(exits=False))

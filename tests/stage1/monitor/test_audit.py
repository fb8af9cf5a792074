"""Which exits are audited, and what an audit adds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.stats import kstest

from stage1.certificate.risks import Risk
from stage1.monitor.audit import Audit, counted, drawn_number, increment, needs_label, watched_risk
from stage1.monitor.settings import AuditShares

SECRET = b"0123456789abcdef"


def test_the_draw_is_uniform_keyed_and_repeatable() -> None:
    numbers = [drawn_number(SECRET, f"request {i}") for i in range(4000)]
    assert kstest(numbers, "uniform").pvalue > 0.01
    assert numbers[:5] == [drawn_number(SECRET, f"request {i}") for i in range(5)]
    other = [drawn_number(b"another key of it", f"request {i}") for i in range(4000)]
    assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("risk", "expected"),
    [
        # (loss, trial) for (exit label, label) of 0/0, 0/1, 1/0, 1/1.
        (Risk.MISS_EXIT, [(0, 0), (1, 1), (0, 0), (0, 1)]),
        (Risk.FALSE_OMISSION, [(0, 1), (1, 1), (0, 0), (0, 0)]),
        (Risk.ERROR_EXIT, [(0, 1), (1, 1), (1, 1), (0, 1)]),
    ],
)
def test_losses_and_trials_are_those_of_the_risk(risk: Risk, expected: list[tuple[int, int]]) -> None:
    assert [counted(risk, exit_label, label) for exit_label in (0, 1) for label in (0, 1)] == expected


def test_risks_that_count_what_is_deferred_are_watched_by_the_miss_rate_on_exits() -> None:
    assert {risk: watched_risk(risk) for risk in Risk} == {
        Risk.MISS_ALL: Risk.MISS_EXIT,
        Risk.MISS_GATED: Risk.MISS_EXIT,
        Risk.MISS_EXIT: Risk.MISS_EXIT,
        Risk.FALSE_OMISSION: Risk.FALSE_OMISSION,
        Risk.ERROR_EXIT: Risk.ERROR_EXIT,
        Risk.MISS_JOINT: Risk.MISS_EXIT,
    }
    with pytest.raises(ValueError, match="D1"):
        counted(Risk.MISS_ALL, 0, 1)


def test_a_flag_of_stage_2_is_no_miss() -> None:
    """Whatever Stage-2 says of an exit with 0, only a label makes it a miss."""
    assert needs_label(Risk.MISS_EXIT, 0, 1)
    with pytest.raises(ValueError, match="without a label"):
        increment(Risk.MISS_EXIT, Audit(0, 0.3, said=1))
    assert increment(Risk.MISS_EXIT, Audit(0, 0.3, said=1, label=0)).loss == 0
    miss = increment(Risk.MISS_EXIT, Audit(0, 0.25, said=1, label=1))
    assert (miss.loss, miss.trial, miss.loss_seen, miss.trial_seen) == (4, 4, 1, 1)


def test_a_hit_that_stage_2_does_not_see_is_no_trial_unless_people_label_it() -> None:
    assert not needs_label(Risk.MISS_EXIT, 1, 0)
    assert needs_label(Risk.MISS_EXIT, 1, 0, confirm_hits=True)
    assert needs_label(Risk.ERROR_EXIT, 1, 0), "it may be an error"
    assert increment(Risk.MISS_EXIT, Audit(1, 0.05, said=0)).trial == 0
    assert increment(Risk.MISS_EXIT, Audit(1, 0.05, said=0, label=1)).trial == pytest.approx(20)


@pytest.mark.parametrize("risk", [Risk.MISS_EXIT, Risk.FALSE_OMISSION, Risk.ERROR_EXIT])
@pytest.mark.parametrize(("exit_label", "said", "label"), [*itertools.product((0, 1), repeat=3)])
def test_with_a_share_labelled_the_counts_are_right_on_average(risk, exit_label, said, label) -> None:
    """Whatever Stage-2 says: the mean over the draw of audits and of labels is the truth."""
    share, labelled = 0.3, 0.1
    if needs_label(risk, exit_label, said, confirm_hits=True):
        asked = increment(risk, Audit(exit_label, share, said, label))
        mean = share * asked.loss, share * asked.trial
    else:
        asked = increment(risk, Audit(exit_label, share, said, label, labelled))
        not_asked = increment(risk, Audit(exit_label, share, said, None, labelled))
        mean = tuple(
            share * (labelled * getattr(asked, name) + (1 - labelled) * getattr(not_asked, name))
            for name in ("loss", "trial")
        )
    assert mean == pytest.approx(counted(risk, exit_label, label))


def test_shares_that_would_weigh_too_much_are_refused() -> None:
    with pytest.raises(ValidationError):
        AuditShares(exit0=0.001)
    with pytest.raises(ValidationError, match="at least"):
        AuditShares(labelled=0.001)
    assert AuditShares(labelled=0.1).all_hits
    assert AuditShares().least == AuditShares().of(1) == 0.05

"""The state of a certificate in use."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.certificate.risks import Risk
from stage1.monitor.audit import Audit, ExitLabel, needs_label
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms, after_audit, step
from stage1.monitor.settings import AdaptationSettings, AuditShares, SequentialSettings

TERMS = MonitorTerms()
MISS, HIT, NOTHING = Audit(0, 0.3, 1, 1), Audit(1, 0.05, 1), Audit(0, 0.3, 0)
AUDITS = st.lists(st.sampled_from([MISS, HIT, NOTHING, Audit(0, 0.3, 1, 0), Audit(1, 0.05, 0)]), max_size=60)


def after(*audits: Audit, terms: MonitorTerms = TERMS) -> MonitorState:
    state = MonitorState.fresh("c", terms)
    for audit in audits:
        state = after_audit(state, audit, terms)
    return state


def test_misses_alarm_and_hits_do_not() -> None:
    good = after(*[HIT] * 300)
    assert good.alarms == {}
    assert good.estimate == 0
    assert good.interval(TERMS)[1] < 0.03
    bad = after(*[MISS, HIT] * 12)
    assert set(bad.alarms) == {"violated", "changed"}
    assert bad.interval(TERMS)[0] > 0.02
    assert bad.estimate == pytest.approx(12 / 0.3 / (12 / 0.3 + 12 / 0.05))


def test_the_detector_forgets_a_long_good_time_and_the_e_process_does_not() -> None:
    state = after(*[HIT] * 400, *[MISS, HIT, HIT] * 18)
    assert "changed" in state.alarms
    assert "violated" not in state.alarms


def test_an_alarm_stays() -> None:
    state = after(*[MISS] * 12, *[HIT] * 2000)
    assert state.log_e_value < 0
    assert set(state.alarms) == {"violated", "changed"}


@given(AUDITS)
def test_a_state_comes_back_from_its_file_to_the_last_bit(audits: list[Audit]) -> None:
    """Also in the middle: what goes on from a file ends where the other ends."""
    whole = after(*audits)
    middle = MonitorState.model_validate_json(after(*audits[: len(audits) // 2]).to_json())
    for audit in audits[len(audits) // 2 :]:
        middle = after_audit(middle, audit, TERMS)
    assert middle == whole
    assert middle.to_json() == whole.to_json()


@given(AUDITS, st.floats(0, 1), st.floats(0.1, 30))
def test_theta_is_never_negative_and_never_above_its_limit(audits: list[Audit], gamma: float, most: float) -> None:
    terms = TERMS.model_copy(update={"adaptation": AdaptationSettings(gamma=gamma, most=most)})
    assert 0 <= after(*audits, terms=terms).theta <= most


def test_one_place_moves_theta_by_one_step() -> None:
    """An attacker has one audit a place: it is worth this much, and not more."""
    assert after(MISS).theta == pytest.approx(0.05 * 0.98 / 0.3)
    assert after(MISS).alarms == {}
    most = 0.8 * 0.9 * 0.05 / 0.02 * 0.98 / 0.3
    assert after(MISS).log_e_value < most


def test_images_without_roadwork_change_nothing_but_the_count() -> None:
    assert after(NOTHING) == MonitorState.fresh("c", TERMS).model_copy(update={"audits": 1})


def test_an_audit_that_was_drawn_at_a_smaller_share_is_bet_on_less() -> None:
    """Shares may change while audits wait: no factor becomes negative."""
    state = after(Audit(1, 0.01, 1), terms=MonitorTerms(shares=AuditShares(exit0=0.5, exit1=0.5)))
    assert min(state.log_wealth) > -2.4


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("risk", [Risk.MISS_EXIT, Risk.FALSE_OMISSION, Risk.ERROR_EXIT])
def test_no_label_takes_more_than_nine_tenths_of_any_stake(risk: Risk, share: float) -> None:
    """Also one that contradicts Stage-2 where few are labelled, and weighs a hundred audits."""
    terms = MonitorTerms(risk=risk, alpha=0.05, shares=AuditShares(labelled=share))
    begun = MonitorState.fresh("c", terms)
    outcomes: list[ExitLabel] = [0, 1]
    for exit_label in outcomes:
        for said in outcomes:
            for label in outcomes:
                always = needs_label(risk, exit_label, said, confirm_hits=True)
                asked = 1.0 if always else share
                audit = Audit(exit_label, terms.shares.of(exit_label), said, label, asked, share)
                state = after_audit(begun, audit, terms)
                logs = [*state.log_wealth, *state.log_detector, *(log for game in state.games for log in game)]
                assert min(logs) >= math.log(0.1) - 1e-12, audit
                assert MonitorState.model_validate_json(state.to_json()) == state


def test_the_interval_holds_the_risk_where_only_some_are_labelled() -> None:
    """Stage-2 sees nine misses of ten, and takes one false alarm of ten for a hit."""
    terms = MonitorTerms(shares=AuditShares(exit0=1.0, exit1=1.0, labelled=0.3))
    outside = 0
    for seed in range(30):
        rng, state = random.Random(seed), MonitorState.fresh("c", terms)
        for _ in range(400):
            roadwork = rng.random() < 0.4
            missed = roadwork and rng.random() < 0.1
            exit_label: ExitLabel = 1 if (roadwork and not missed) or (not roadwork and rng.random() < 0.2) else 0
            label: ExitLabel = 1 if roadwork else 0
            said: ExitLabel = label if rng.random() < 0.9 else (0 if label else 1)
            always = needs_label(terms.risk, exit_label, said, confirm_hits=True)
            asked = always or rng.random() < 0.3
            audit = Audit(exit_label, 1.0, said, label if asked else None, 1.0 if always else 0.3, 0.3)
            state = after_audit(state, audit, terms)
        low, high = state.interval(terms)
        outside += not low <= 0.1 <= high
    assert outside <= 6
    assert high < 1


def test_rarer_audits_take_smaller_steps() -> None:
    rare = MonitorTerms(shares=AuditShares(exit0=0.1, exit1=0.05))
    assert step(TERMS) == 0.05
    assert step(rare) == pytest.approx(0.05 / 3)


@pytest.mark.parametrize("risk", [Risk.FALSE_OMISSION, Risk.ERROR_EXIT])
def test_other_risks_that_exits_decide_are_watched_as_well(risk: Risk) -> None:
    terms = MonitorTerms(risk=risk, alpha=0.05, test=SequentialSettings(delta=0.05))
    rng = random.Random(0)
    good = after(*[MISS if rng.random() < 0.02 else NOTHING for _ in range(500)], terms=terms)
    bad = after(*[MISS if rng.random() < 0.3 else NOTHING for _ in range(500)], terms=terms)
    assert good.alarms == {}
    assert "violated" in bad.alarms

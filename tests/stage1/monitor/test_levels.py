"""Levels and their sentences."""

from __future__ import annotations

import math

import pytest
from pydantic import ValidationError

from stage1.monitor.audit import Audit
from stage1.monitor.levels import LevelSettings, Standing, standing
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms, after_audit

TERMS, SETTINGS = MonitorTerms(), LevelSettings()
FRESH = MonitorState.fresh("c", TERMS)


def stands(
    before: Standing | None = None, state: MonitorState = FRESH, *, drift: float = 1.0, h: float = 0
) -> Standing:
    return standing(before or Standing(), state, TERMS, SETTINGS, log_drift=math.log(drift), backlog_h=h)


def test_all_is_well_at_first() -> None:
    assert stands().level == "ok"
    assert "Nothing" in stands().sentence


def test_a_level_does_not_flicker() -> None:
    high = stands(drift=150)
    assert high.level == "watch"
    assert "says nothing of the risk" in high.sentence
    assert stands(high, drift=50).level == "watch"
    assert stands(drift=50).level == "ok"
    assert stands(high, drift=5).level == "ok"


def test_a_backlog_is_told_with_what_to_do() -> None:
    late = stands(h=80)
    assert late.level == "watch"
    assert "cascade risk show" in late.sentence
    assert stands(late, h=60).level == "watch"
    assert stands(late, h=40).level == "ok"


def test_an_alarm_says_what_is_known_and_stays() -> None:
    state = FRESH
    for _ in range(10):
        state = after_audit(state, Audit(0, 0.3, 1, 1), TERMS)
    found = stands(state=state)
    assert found.level == "alarm"
    assert "above 2.0%" in found.sentence
    assert "10 of 10 audited trials" in found.sentence
    for _ in range(400):
        state = after_audit(state, Audit(1, 0.05, 1), TERMS)
    assert stands(found, state).level == "alarm"


def test_theta_is_told() -> None:
    assert "t0 is 1.50 logits below" in stands(state=FRESH.model_copy(update={"theta": 1.5})).sentence


def test_a_limit_needs_two_sides() -> None:
    for limit in ((1, 1), (1, 2), (1, 0)):
        with pytest.raises(ValidationError, match="leave lower"):
            LevelSettings(drift=limit)

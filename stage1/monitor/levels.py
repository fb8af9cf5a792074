"""How a certificate stands, in a word and in sentences: `ok`, `watch` or `alarm`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from stage1.certificate.risks import Risk
from stage1.certificate.statistics.percent import at_most
from stage1.monitor.risk_monitor import MonitorState, MonitorTerms
from stage1.settings import Section

Level = Literal["ok", "watch", "alarm"]
NAMES = {
    Risk.MISS_EXIT: "the miss rate on exits",
    Risk.FALSE_OMISSION: "the roadwork rate among exits as no roadwork",
    Risk.ERROR_EXIT: "the error rate on exits",
}
LABEL_MORE = "Label the audits that wait (`cascade risk show` lists them) and let a night certify on fresh rows."


def _two_sides(limit: tuple[float, float]) -> tuple[float, float]:
    enter, leave = limit
    if not 0 < leave < enter:
        raise ValueError(f"enters at {enter:g} and leaves at {leave:g}: it must leave lower than it enters, above 0")
    return limit


Limit = Annotated[tuple[float, float], AfterValidator(_two_sides)]
"""Where a reading raises the level to `watch`, and the lower one below which it lets it go again."""


class LevelSettings(Section):
    """When a level changes; each limit has two sides, so that a level does not flicker.

    Attributes:
        e_value: evidence of the e-process. An alarm is at 1 / delta.
        change: statistic of the change detector, as a share of its alarm.
        theta: what is taken off t0, in logits.
        drift: wealth of the martingale of scores.
        backlog_h: age of the oldest audit that waits for its verdict, in hours.
    """

    e_value: Limit = (10.0, 3.0)
    change: Limit = (0.05, 0.01)
    theta: Limit = (0.5, 0.1)
    drift: Limit = (100.0, 10.0)
    backlog_h: Limit = (72.0, 48.0)


@dataclass(frozen=True)
class Standing:
    """How a certificate stands.

    Attributes:
        level: the word.
        reasons: what it is for, and a sentence for each that says what is known and what to do; empty if `ok`.
    """

    level: Level = "ok"
    reasons: Mapping[str, str] | None = None

    @property
    def sentence(self) -> str:
        """All of it."""
        return " ".join((self.reasons or {}).values()) or "Nothing that audits or scores have shown speaks against it."


def standing(
    before: Standing,
    state: MonitorState,
    terms: MonitorTerms,
    settings: LevelSettings,
    *,
    log_drift: float,
    backlog_h: float,
) -> Standing:
    """How it stands, given how it stood.

    Args:
        before: how it stood; a reason that was given stays until its reading is below `leave`.
        state: of the audits.
        terms: what is watched.
        settings: limits.
        log_drift: log wealth of the martingale of scores.
        backlog_h: age of the oldest audit without a verdict, in hours.
    """
    alarms: dict[str, str] = {alarm: _alarm_text(alarm, state, terms) for alarm in state.alarms}
    if alarms:
        return Standing("alarm", alarms)
    log_run_length = math.log(terms.test.run_length)
    readings = {
        "e_value": state.log_e_value,
        "change": state.log_change - log_run_length,
        "theta": math.log(state.theta) if state.theta > 0 else -math.inf,
        "drift": log_drift,
        "backlog_h": math.log(backlog_h) if backlog_h > 0 else -math.inf,
    }
    held = before.reasons or {}
    reasons = {}
    for name, reading in readings.items():
        enter, leave = getattr(settings, name)
        if reading >= math.log(leave if name in held else enter):
            reasons[name] = _watch_text(name, math.exp(min(reading, 700.0)), state, terms)
    return Standing("watch" if reasons else "ok", reasons)


def _alarm_text(alarm: str, state: MonitorState, terms: MonitorTerms) -> str:
    what, limit = NAMES[terms.risk], at_most(terms.alpha)
    counts = f"{state.losses} of {state.trials} audited trials were losses"
    if alarm == "violated":
        sure = f"{terms.test.delta:.0%}"
        return (
            f"{what[0].upper()}{what[1:]} is above {limit} in what is served now: {counts}, and chance alone raises "
            f"this alarm in at most {sure} of all streams. Until another bundle is live the certificate does not "
            f"describe this stream. {LABEL_MORE}"
        )
    return (
        f"{what[0].upper()}{what[1:]} has changed for the worse: {counts}, and without a change this comes once in "
        f"{terms.test.run_length:,.0f} audited trials. {LABEL_MORE}"
    )


def _watch_text(name: str, reading: float, state: MonitorState, terms: MonitorTerms) -> str:
    texts = {
        "e_value": f"Evidence that {NAMES[terms.risk]} is above {at_most(terms.alpha)} is {reading:.3g}; the alarm is "
        f"at {1 / terms.test.delta:g}. Label the audits that wait.",
        "change": f"The change detector stands at {reading:.1%} of its alarm. Label the audits that wait.",
        "theta": f"Audits saw more misses than are allowed, and t0 is {state.theta:.2f} logits below the certified "
        "one: fewer images exit as no roadwork.",
        "drift": f"Pictures differ from those before (martingale {reading:.3g}). This is drift and says nothing of the "
        "risk: see what the pictures show.",
        "backlog_h": f"The oldest audit has waited {reading:.0f} hours for a verdict, and all later ones wait with it. "
        "Label it: `cascade risk show` names it.",
    }
    return texts[name]

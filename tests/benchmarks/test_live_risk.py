"""The acceptance numbers of the monitor, on fewer streams; the whole is `python -m benchmarks.live_risk`.

Tolerances: a share of streams may lie three standard errors of 40 streams above what it should be, a median a third.
"""

from __future__ import annotations

import math

import pytest

from benchmarks import live_risk
from benchmarks.live_risk import Auditor, exits_at, monitored, quantiles, rng_of, share_of, with_auditor
from stage1.monitor.audit import ExitLabel

STREAMS = 40
SLACK = 3 * math.sqrt(0.01 * 0.99 / STREAMS)


@pytest.mark.parametrize("late", [None, 0, 1])
def test_at_the_boundary_alarms_are_rare_also_where_verdicts_are_late(late: ExitLabel | None) -> None:
    found = []
    for i in range(STREAMS):
        delay = None if late is None else live_risk.delays(rng_of(i), late)
        stream = exits_at(0.02, 3_000, rng_of(101, i), only_positives=True)
        found.append(monitored(stream, rng_of(0), name=f"boundary/{late}/{i}", delay=delay))
    assert share_of(found) <= 0.01 + SLACK


@pytest.mark.parametrize(("rate", "median"), [(0.06, 800), (0.10, 280)])
def test_a_broken_promise_is_found_in_time(rate: float, median: float) -> None:
    found = [
        monitored(exits_at(rate, 4_000, rng_of(102, i), only_positives=True), rng_of(0), name=f"late/{rate}/{i}")
        for i in range(STREAMS)
    ]
    assert quantiles(found, "violated")[0] <= median * 4 / 3


def test_one_audit_a_place_keeps_bad_places_from_looking_like_a_change() -> None:
    lines = list(live_risk.a4_places(STREAMS))
    assert lines[0].holds
    assert float(lines[1].measured) > 0.05


def test_a_bad_auditor_costs_power_and_no_validity() -> None:
    """Stage-2 that is right on half of the roadwork; people confirm what it contradicts."""
    poor = Auditor(0.5, 0.9)
    assert share_of(with_auditor(0.02, poor, 10, tag=105)) <= 0.01 + SLACK
    assert share_of(with_auditor(0.10, poor, 10, tag=105)) == 1
    trusted = Auditor(0.95, 0.99, people=False)
    assert share_of(with_auditor(0.02, trusted, 10, tag=105)) > 0.3, "what is trusted without people is not valid"


def test_adaptation_holds_the_risk_through_a_drift() -> None:
    lines = {line.what: line for line in live_risk.a6_adaptation(8)}
    assert all(line.holds for line in lines.values())


def test_audits_do_not_depend_on_the_score() -> None:
    assert all(line.holds for line in live_risk.a9_independence(1))

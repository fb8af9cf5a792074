"""The alerts of Prometheus: each begins with what it is about, and ends when that is over."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from miner.alerts.rules import HANGS_S
from miner.alerts.settings import AlertSettings
from miner.nights.outcome import ALARM_AFTER
from tests.support.promtool import promtool

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"
ME = 'job="cascade", instance="m"'
HOUR, DAY = 60, 24 * 60
# Seconds since 1970 at the first sample are 0, so that a point in time is the minute times 60.
HEALTHY = {
    f"up{{{ME}}}": "1x9000",
    f'cascade_ready{{{ME}, condition="axon"}}': "1x9000",
    f'cascade_hotkey_registered{{{ME}, hotkey="5F"}}': "1x9000",
    f"process_start_time_seconds{{{ME}}}": "0x9000",
    f'cascade_requests_total{{{ME}, hotkey="5F", status="200"}}': "0+10x9000",
    f'cascade_request_duration_seconds_bucket{{{ME}, hotkey="5F", le="1"}}': "0+10x9000",
    f'cascade_request_duration_seconds_bucket{{{ME}, hotkey="5F", le="7"}}': "0+10x9000",
    f'cascade_request_duration_seconds_bucket{{{ME}, hotkey="5F", le="9"}}': "0+10x9000",
    f'cascade_request_duration_seconds_bucket{{{ME}, hotkey="5F", le="+Inf"}}': "0+10x9000",
    f'cascade_answers_total{{{ME}, result="ok"}}': "0+10x9000",
    f"cascade_nightly_failures_in_a_row{{{ME}}}": "0x9000",
    f'cascade_disk_wait_seconds{{{ME}, disk="store"}}': "0.1x9000",
    f'cascade_stage2_server_state{{{ME}, server="a", state="closed"}}': "1x9000",
    f'cascade_stage2_server_state{{{ME}, server="b", state="closed"}}': "1x9000",
    f"cascade_stage2_budget_affordable_ratio{{{ME}}}": "1x9000",
    f'cascade_live_risk_level{{{ME}, level="ok"}}': "1x9000",
}


@dataclass(frozen=True)
class Case:
    """Series that differ from those of a healthy miner, and the minutes at which an alert fires and does not."""

    alert: str
    series: dict[str, str]
    fires: int
    over: int
    quiet: int = 0
    firing: int = 1


def then(*parts: tuple[float | str, int]) -> str:
    """Values that last for so many minutes each."""
    return " ".join(f"{value}x{minutes - 1}" for value, minutes in parts)


CASES = {
    "down": Case("CascadeNotReady", {f"up{{{ME}}}": then((1, 10), (0, 20), (1, 20))}, 20, 35, 12),
    "a condition": Case(
        "CascadeNotReady",
        {f'cascade_ready{{{ME}, condition="axon"}}': then((1, 10), (0, 20), (1, 20))},
        20,
        35,
        12,
    ),
    "deregistered": Case(
        "CascadeNotReady",
        {f'cascade_hotkey_registered{{{ME}, hotkey="5F"}}': then((1, 10), (0, 20), (1, 20))},
        20,
        35,
        12,
    ),
    "silence": Case(
        "CascadeNoAnswers",
        {f'cascade_requests_total{{{ME}, hotkey="5F", status="200"}}': then((0, 500)) + " 1+1x100"},
        7 * HOUR,
        510,
        5 * HOUR,
    ),
    "one of two hotkeys in silence": Case(
        "CascadeNoAnswers",
        {f'cascade_hotkey_registered{{{ME}, hotkey="5G"}}': "1x9000"}
        | {f'cascade_requests_total{{{ME}, hotkey="5G", status="200"}}': then((0, 500)) + " 1+1x100"},
        7 * HOUR,
        510,
        5 * HOUR,
    ),
    "a start after a silence": Case(
        "CascadeNoAnswers",
        {f'cascade_requests_total{{{ME}, hotkey="5F", status="200"}}': "0x9000"}
        | {f"process_start_time_seconds{{{ME}}}": then((0, 420), (420 * 60, 800))},
        7 * HOUR - 1,
        8 * HOUR,
        5 * HOUR,
    ),
    "slow": Case(
        "CascadeSlow",
        {
            f'cascade_request_duration_seconds_bucket{{{ME}, hotkey="5F", le="{le}"}}': "0x60 10+10x9000"
            for le in (1, 7)
        },
        40,
        120,
        9,
    ),
    "degraded": Case(
        "CascadeDegraded",
        {f'cascade_degraded_answers_total{{{ME}, reason="stage2"}}': "0x30 2+2x30 60x100"},
        58,
        90,
        31,
    ),
    "three nights": Case(
        "CascadeNightsFailing",
        {f"cascade_nightly_failures_in_a_row{{{ME}}}": then((2, 20), (3, 20), (0, 20))},
        30,
        45,
        19,
    ),
    "a night": Case(
        "CascadeNightFailed",
        {f'cascade_nightly_last_outcome{{{ME}, outcome="failed"}}': "_x19 1x20 stale"}
        | {f"cascade_nightly_next_start_timestamp_seconds{{{ME}}}": "99999x100"},
        30,
        45,
        19,
    ),
    "no night": Case(
        "CascadeNightFailed",
        {f"cascade_nightly_last_success_timestamp_seconds{{{ME}}}": then((1, 2400), (2400 * 60, 200))}
        | {f"cascade_nightly_next_start_timestamp_seconds{{{ME}}}": "99999x5000"},
        37 * HOUR,
        2410,
        35 * HOUR,
    ),
    "nights of another process": Case(
        "CascadeNightFailed",
        {f'cascade_nightly_last_outcome{{{ME}, outcome="failed"}}': "1x15000"}
        | {f"cascade_nightly_last_start_timestamp_seconds{{{ME}}}": "1x15000"},
        DAY,
        8 * DAY,
        1,
    ),
    "a disk": Case(
        "CascadeDiskHangs",
        {f'cascade_disk_wait_seconds{{{ME}, disk="store"}}': "0 10 20 31 91 0.1x20"},
        4,
        6,
        2,
    ),
    "Stage-2": Case(
        "CascadeStage2Away",
        {
            f'cascade_stage2_server_state{{{ME}, server="{name}", state="closed"}}': "1x9 stale _x19 1x20"
            for name in "ab"
        }
        | {f'cascade_stage2_server_state{{{ME}, server="{name}", state="open"}}': "_x10 1x19 stale" for name in "ab"},
        20,
        32,
        9,
    ),
    "a budget": Case(
        "CascadeBudgetLow",
        {f"cascade_stage2_budget_affordable_ratio{{{ME}}}": then((1, 10), (0.4, 30), (1, 20))},
        30,
        45,
        20,
    ),
    "a GPU": Case(
        "CascadeGpuFault",
        {f'cascade_gpu_fault{{{ME}, gpu="0", fault="hot", level="warning"}}': "_x9 1x10 stale"}
        | {f'cascade_gpu_fault{{{ME}, gpu="0", fault="xid", level="alarm"}}': "_x9 1x10 stale"},
        15,
        25,
        5,
        firing=2,
    ),
    "the certificate": Case(
        "CascadeCertificateBroken",
        {f'cascade_live_risk_level{{{ME}, level="ok"}}': "1x9 stale"}
        | {f'cascade_live_risk_level{{{ME}, level="alarm"}}': "_x10 1x10 stale"},
        15,
        25,
        5,
    ),
}


def ask(series: dict[str, str], asked: dict[str, tuple[int, float | None]], tmp_path: Path) -> None:
    """What Prometheus says of questions, each at a minute, over so many series."""
    tests: list[dict[str, Any]] = [
        {
            "expr": expr,
            "eval_time": f"{minute}m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for expr, (minute, value) in asked.items()
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": tests}
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]})
    )
    promtool("test", "rules", tmp_path / "test.yml")


def firing(alert: str, minute: int) -> str:
    # A number beside it, so that the same alert can be asked for at several minutes.
    return f'count(ALERTS{{alertname=~"{alert}", alertstate="firing"}}) + 0 * {minute}'


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_alert_begins_and_ends(case: Case, tmp_path: Path) -> None:
    asked: dict[str, tuple[int, float | None]] = {
        firing(case.alert, minute): (minute, count)
        for minute, count in ((case.quiet, None), (case.fires, case.firing), (case.over, None))
    }
    ask(HEALTHY | case.series, asked, tmp_path)


def test_nothing_fires_of_a_healthy_miner(tmp_path: Path) -> None:
    ask(HEALTHY, {firing(".+", minute): (minute, None) for minute in (5, 60, 7 * HOUR, 6 * DAY)}, tmp_path)


def test_a_fault_of_a_gpu_is_as_bad_as_it_is(tmp_path: Path) -> None:
    of = {f'cascade_gpu_fault{{{ME}, gpu="0", fault="f", level="{level}"}}': "1x20" for level in ("warning", "alarm")}
    bad = {
        severity: f'count(ALERTS{{alertname="CascadeGpuFault", severity="{severity}"}})'
        for severity in ("critical", "warning")
    }
    ask(HEALTHY | of, {bad["critical"]: (10, 1), bad["warning"]: (10, 1)}, tmp_path)


def rules() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def test_every_alert_is_tried() -> None:
    assert {case.alert for case in CASES.values()} == set(rules())


def test_limits_are_those_of_the_miner() -> None:
    """Whoever is told twice is told the same."""
    usual, exprs = AlertSettings(), {name: rule["expr"] for name, rule in rules().items()}
    limits = {
        "CascadeNoAnswers": f"[{usual.silent_h:g}h]",
        "CascadeSlow": f"> {usual.slow_s:g}",
        "CascadeDegraded": f"> {usual.degraded_share:g}",
        "CascadeNightFailed": f"> {usual.night_h:g} * 3600",
        "CascadeNightsFailing": f">= {ALARM_AFTER}",
        "CascadeDiskHangs": f">= {HANGS_S:g}",
        "CascadeBudgetLow": f"< {usual.budget_share:g}",
    }
    assert {name: limit for name, limit in limits.items() if limit not in exprs[name]} == {}


def test_an_alert_says_what_to_do() -> None:
    for name, rule in rules().items():
        told = rule["annotations"]
        assert re.search(r"Run|Look|Compare|cascade |log|/status|See", told["description"]), name
        assert len(told["summary"]) < 100, name

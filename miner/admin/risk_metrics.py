"""Metrics of the watch on the live certificate."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

GAUGES = {
    "cascade_live_risk_ratio": ("estimate", "Watched risk by audits, weighted; nothing before the first trial."),
    "cascade_live_risk_lower_ratio": ("lower", "Lower end of its interval."),
    "cascade_live_risk_upper_ratio": ("upper", "Upper end of its interval."),
    "cascade_live_risk_e_value": ("e_value", "Evidence that it is above its limit; the alarm is at 1 / delta."),
    "cascade_live_risk_change": ("change", "Statistic of the change detector; the alarm is at the run length."),
    "cascade_live_risk_drift": ("drift", "Wealth of the martingale of scores; drift, and no risk."),
    "cascade_live_risk_theta_logits": ("theta", "What audits have taken off t0."),
    "cascade_live_risk_waiting": ("waiting", "Audits that are not counted yet."),
    "cascade_live_risk_for_people": ("for_people", "Audits that wait for a person."),
    "cascade_live_risk_oldest_hours": ("waiting_h", "Age of the oldest audit that is not counted."),
    "cascade_live_risk_exits_as_0": ("exits_as_0", "1 if anything exits as no roadwork at present."),
}


def live_risk(told: Mapping[str, Any]) -> Iterator[Metric]:
    """The metrics.

    Args:
        told: the status of the watch; empty where there is none.
    """
    level = GaugeMetricFamily("cascade_live_risk_level", "1 for the level of the live certificate.", labels=("level",))
    if "level" in told:
        level.add_metric((told["level"],), 1)
    yield level
    for name, (key, says) in GAUGES.items():
        gauge = GaugeMetricFamily(name, says)
        if told.get(key) is not None:
            gauge.add_metric((), float(told[key]))
        yield gauge
    failed = CounterMetricFamily(
        "cascade_live_risk_failures", "What the watch could not do, by reason.", labels=("reason",)
    )
    for reason, number in told.get("failed", {}).items():
        failed.add_metric((reason,), number)
    yield failed

"""Days until an alarm, against streams."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.live_risk import exits_at, monitored, quantiles, rng_of
from stage1.errors import SettingsError
from stage1.monitor.detection import Traffic, detection
from stage1.monitor.risk_monitor import MonitorTerms
from stage1.monitor.settings import AuditShares

TRAFFIC = Traffic(requests=1000, sensitivity=1.0)


@pytest.mark.parametrize("rate", [0.06, 0.1])
def test_the_plan_is_what_streams_take(rate: float) -> None:
    """Medians of 40 streams, within a third."""
    found = [
        monitored(exits_at(rate, 5000, rng_of(70, i), only_positives=True), rng_of(0), name=f"plan/{rate}/{i}")
        for i in range(40)
    ]
    half, _ = quantiles(found, "violated")
    planned = detection(rate, TRAFFIC, MonitorTerms())
    assert planned.days is not None
    assert planned.days * 255 == pytest.approx(half, rel=0.34)


def test_more_audits_are_quicker_and_cost_more() -> None:
    few, many = (detection(0.06, TRAFFIC, MonitorTerms(shares=AuditShares(exit0=share))) for share in (0.1, 0.6))
    assert few.days is not None
    assert many.days is not None
    assert many.days < few.days
    assert many.labels > few.labels


def test_a_rate_within_the_limit_is_never_found() -> None:
    assert detection(0.02, TRAFFIC, MonitorTerms()).days is None
    with pytest.raises(SettingsError):
        detection(0.0, TRAFFIC, MonitorTerms())
    assert np.isclose(detection(0.02, TRAFFIC, MonitorTerms()).audits, 0.3 * (5.1 + 560) + 0.05 * 249.9)

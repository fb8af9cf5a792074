"""Tests by betting: the very numbers, and that they promise what they do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stage1.monitor.e_process import (
    Logs,
    detector_after,
    log_mean_detector,
    log_mean_wealth,
    wagers,
    wealth_after,
)

BETS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


def test_the_wealth_is_the_product_and_the_detector_the_recursion() -> None:
    bets = wagers(BETS, 0.02, 0.05)
    assert bets[0] == pytest.approx(0.02 * 0.9 * 0.05 / 0.02)
    wealth, detector = np.ones(6), np.zeros(6)
    logs: Logs = (0.0,) * 6
    logs_of_detector: Logs = (0.0,) * 6
    for x in np.random.default_rng(0).choice([-0.4, 3.27], size=200, p=[0.95, 0.05]):
        wealth *= 1 + np.array(bets) * x
        detector = (detector + 1) * (1 + np.array(bets) * x)
        logs, logs_of_detector = wealth_after(logs, bets, float(x)), detector_after(logs_of_detector, bets, float(x))
    assert log_mean_wealth(logs) == pytest.approx(math.log(wealth.mean()))
    assert log_mean_detector(logs_of_detector) == pytest.approx(math.log(detector.mean()))


def test_nothing_overflows_and_nothing_is_infinite_in_the_state() -> None:
    bets = wagers(BETS, 0.02, 0.05)
    logs: Logs = (0.0,) * 6
    detector: Logs = (0.0,) * 6
    for _ in range(2000):
        logs, detector = wealth_after(logs, bets, 19.6), detector_after(detector, bets, 19.6)
    assert 700 < log_mean_wealth(logs) < math.inf
    assert 700 < log_mean_detector(detector) < math.inf
    assert log_mean_detector((0.0,) * 6) == -math.inf


@pytest.mark.parametrize("least", [0.01, 0.05, 0.3, 1.0])
def test_no_factor_is_below_a_tenth(least: float) -> None:
    alpha = 0.02
    assert min(1 - bet * alpha / least for bet in wagers((1.0,), alpha, least)) == pytest.approx(0.1)


def test_false_alarms_are_rarer_than_promised() -> None:
    """500 streams of 2,000 audited exits at the boundary: at most delta, with three standard errors."""
    alpha, delta, share0, share1 = 0.02, 0.05, 0.3, 0.05
    rng = np.random.default_rng(1)
    bets = np.array(wagers(BETS, alpha, share1))
    misses = rng.random((500, 4000)) < alpha
    audited = rng.random((500, 4000)) < np.where(misses, share0, share1)
    x = np.where(audited, np.where(misses, (1 - alpha) / share0, -alpha / share1), 0.0)
    log_wealth = np.log1p(x[..., None] * bets).cumsum(1)
    ever = np.log(np.exp(log_wealth).mean(-1)).max(1) >= math.log(1 / delta)
    assert ever.mean() <= delta + 3 * math.sqrt(delta * (1 - delta) / 500)

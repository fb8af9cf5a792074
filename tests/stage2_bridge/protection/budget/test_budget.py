"""The budget: never exceeded in any period, kept on disk, and spent where it is worth the most."""

from __future__ import annotations

import errno
import json
import math
import os
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from stage2_bridge.protection.budget.bucket import bucket
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.gain_order import UncertaintyOrder
from stage2_bridge.protection.budget.state_file import PLACE_BYTES, StateFile
from stage2_bridge.protection.settings import BudgetSettings

HOUR = 3600.0
TOKENS = Cost(0.0, 0.001, 1000)


class Time:
    def __init__(self, now: float = 1e6) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def opened(path: Path, time: Time, dearest: float = 1.0, **settings: Any) -> Budget:
    return Budget(BudgetSettings(**settings), dearest, StateFile(path), clock=time, now=time)


def spent_at(budget: Budget, time: Time, arrivals: Iterable[float], p: Callable[[], float]) -> list[float]:
    """The times of the calls for hand-offs that come at these times."""
    found = []
    for at in arrivals:
        time.now = at
        if budget.claim(p()).reserve(Cost()) is not None:
            found.append(at)
    return found


def most_in_a_period(times: list[float], period_s: float) -> int:
    """The largest number in any half-open period."""
    return max((bisect_left(times, at + period_s) - place for place, at in enumerate(times)), default=0)


def poisson(rate_per_s: float, seconds: float, seed: int = 0, begin: float = 1e6) -> list[float]:
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate_per_s, int(rate_per_s * seconds * 1.2) + 50)
    times = begin + np.cumsum(gaps)
    return [float(one) for one in times[times < begin + seconds]]


def uniform(seed: int = 1) -> Callable[[], float]:
    rng = np.random.default_rng(seed)
    return lambda: float(rng.uniform())


@given(
    limit=st.floats(1.0, 1e4),
    burst=st.floats(0.01, 0.5),
    steps=st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 1)), max_size=60),
)
def test_no_period_has_more_than_the_limit_whatever_is_asked_and_when(
    limit: float, burst: float, steps: list[tuple[float, float]]
) -> None:
    shape = bucket(limit, HOUR, burst, 0.0)
    level, now = shape.capacity, 0.0
    spent: list[tuple[float, float]] = []
    for wait_s, part in steps:
        now, level = now + wait_s, shape.after(level, wait_s)
        spent.append((now, part * level))
        level -= part * level
    for begin, _ in spent:
        assert sum(cost for at, cost in spent if begin <= at < begin + HOUR) <= limit * (1 + 1e-9)


@pytest.mark.parametrize("rate_per_hour", [20, 90, 110, 1000, 50000])
def test_in_no_hour_more_calls_than_the_budget_has(tmp_path: Path, rate_per_hour: int) -> None:
    time = Time()
    budget = opened(tmp_path / "budget", time, calls=100, per="hour")
    arrivals = poisson(rate_per_hour / HOUR, 6 * HOUR if rate_per_hour < 5000 else HOUR)
    calls = spent_at(budget, time, arrivals, uniform())
    assert most_in_a_period(calls, HOUR) <= 100
    # And what it has is used: nothing is kept from a traffic that it can afford.
    if rate_per_hour <= 80:
        assert len(calls) >= 0.99 * len(arrivals)
    else:
        assert len(calls) >= 0.85 * 90 * (arrivals[-1] - arrivals[0]) / HOUR


@pytest.mark.parametrize("burst", [0.1, 0.5])
def test_a_budget_that_begins_with_nothing_left_is_of_use_at_once_and_wins_its_reserve_back(
    tmp_path: Path, burst: float
) -> None:
    time = Time()
    budget = opened(tmp_path / "budget", time, calls=240, burst=burst)
    # Of the other unit nothing is known, so it begins with nothing.
    budget.change(BudgetSettings(money=240, burst=burst), 1.0)
    assert budget.status.available == 0
    times = spent_at(budget, time, poisson(60 / HOUR, 24 * HOUR), uniform())
    refill_per_hour = 240 * (1 - burst) / 24
    assert times[0] - 1e6 <= HOUR
    assert 1 <= most_in_a_period([one for one in times if one < 1e6 + HOUR], HOUR) <= refill_per_hour
    assert len(times) <= 240
    assert budget.status.available >= 0.1 * burst * 240


def test_the_least_useful_hand_offs_stay_with_stage1_first(tmp_path: Path) -> None:
    time = Time()
    budget = opened(tmp_path / "budget", time, calls=1000, per="hour")
    rng = np.random.default_rng(3)
    asked: list[float] = []
    kept: list[float] = []
    # Twice what comes back in an hour, after the first one.
    for at in poisson(1800 / HOUR, 6 * HOUR):
        time.now, p = at, float(rng.uniform())
        handed = budget.claim(p).reserve(Cost()) is not None
        if at > 1e6 + HOUR:
            (asked if handed else kept).append(min(p, 1 - p))
    assert len(asked) / (len(asked) + len(kept)) == pytest.approx(0.5, abs=0.03)
    # Of gains that are spread over [0, 0.5] the upper half is handed on, but for what the threshold moves.
    assert np.mean(asked) == pytest.approx(0.375, abs=0.02)
    assert np.quantile(kept, 0.95) < 0.3
    assert budget.status.share == pytest.approx(0.5, abs=0.15)
    assert budget.status.least_gain == pytest.approx(0.25, abs=0.08)


def test_another_order_of_gains_takes_the_place_of_uncertainty(tmp_path: Path) -> None:
    class Table:
        """What is a little above one half gains most, what is below it nothing."""

        def gain(self, p: float) -> float:
            return 1 - p if p > 0.5 else 0.0

        def threshold(self, share: float) -> float:
            return 0.5 * (1 - 2 * share) if share < 0.5 else 0.0

    time = Time()
    settings = BudgetSettings(calls=1000, per="hour")
    file = StateFile(tmp_path / "budget")
    budget = Budget(settings, 1.0, file, clock=time, now=time, order=Table())
    rng = np.random.default_rng(3)
    asked = []
    for at in poisson(4000 / HOUR, 3 * HOUR):
        time.now, p = at, float(rng.uniform())
        if budget.claim(p).reserve(Cost()) is not None and at > 1e6 + HOUR:
            asked.append(p)
    assert np.quantile(asked, 0.05) > 0.5
    assert np.quantile(asked, 0.95) < 0.8


def test_an_order_that_says_all_or_nothing_by_an_infinity_is_told_as_a_number(tmp_path: Path) -> None:
    class Table:
        def gain(self, p: float) -> float:
            return min(p, 1 - p) - 0.2

        def threshold(self, share: float) -> float:
            return -math.inf if share >= 1 else math.inf if share <= 0.01 else 0.0

    time = Time()
    file = StateFile(tmp_path / "budget")
    settings = BudgetSettings(calls=100, per="hour", burst=0.5)
    budget = Budget(settings, 1.0, file, clock=time, now=time, order=Table())
    assert budget.status.least_gain == -1.0
    # Where there is enough even what gains less than nothing is handed on, as without a budget.
    assert budget.claim(0.01).reserve(Cost()) is not None
    for _ in range(500):
        budget.claim(0.5).reserve(Cost())
    assert budget.status.least_gain == 1.0
    assert json.loads(json.dumps(asdict(budget.status), allow_nan=False))


def test_an_image_without_a_probability_is_worth_a_call(tmp_path: Path) -> None:
    time = Time()
    budget = opened(tmp_path / "budget", time, calls=20, per="hour", burst=0.5)
    assert [budget.claim(None).reserve(Cost()) is not None for _ in range(12)] == [True] * 10 + [False] * 2


def test_what_is_not_sent_is_given_back_and_what_is_settled_costs_what_it_did(tmp_path: Path) -> None:
    time = Time()
    budget = opened(tmp_path / "budget", time, 1.0, money=100.0, burst=0.1)
    first = budget.claim(None).reserve(TOKENS)
    assert first is not None
    assert (budget.status.available, budget.status.spent) == pytest.approx((9.0, 1.0))
    first.settle(250)
    assert (budget.status.available, budget.status.spent) == pytest.approx((9.75, 0.25))
    second = budget.claim(None).reserve(TOKENS)
    assert second is not None
    second.give_back()
    assert (budget.status.available, budget.status.spent) == pytest.approx((9.75, 0.25))
    third = budget.claim(None).reserve(TOKENS)
    assert third is not None
    third.settle(None)
    assert budget.status.spent == pytest.approx(1.25)


def test_a_call_that_cost_more_than_was_set_aside_is_told_and_paid_by_those_that_follow(tmp_path: Path) -> None:
    time = Time()
    budget = opened(tmp_path / "budget", time, 1.0, money=100.0, burst=0.1)
    found = budget.claim(None).reserve(TOKENS)
    assert found is not None
    with capture_logs() as logs:
        found.settle(30_000)
    assert budget.claim(None).reserve(TOKENS) is None
    assert "raise most_tokens" in logs[0]["example"]["message"]


def test_one_hand_off_counts_once_in_the_traffic_however_often_it_is_sent(tmp_path: Path) -> None:
    time = Time()
    shares = []
    for attempts in (1, 3):
        budget = opened(tmp_path / str(attempts), time, calls=100000)
        for _ in range(50):
            claim = budget.claim(0.5)
            for _ in range(attempts):
                assert claim.reserve(Cost()) is not None
        shares.append(budget._demand.weight)
    assert shares[0] == pytest.approx(shares[1])


class TestAcrossProcesses:
    def test_what_was_spent_stays_spent_and_time_away_wins_back_what_it_should(self, tmp_path: Path) -> None:
        time = Time()
        first = opened(tmp_path / "budget", time, calls=100, per="hour")
        for _ in range(10):
            assert first.claim(None).reserve(Cost()) is not None
        # Not closed: the process was killed.
        again = opened(tmp_path / "budget", time, calls=100, per="hour")
        assert again.claim(None).reserve(Cost()) is None
        assert (again.status.available, again.status.spent) == (0.0, 10.0)
        time.now += 120.0
        later = opened(tmp_path / "budget", time, calls=100, per="hour")
        assert later.status.available == pytest.approx(120 * 90 / HOUR)
        time.now += 1e9
        assert opened(tmp_path / "budget", time, calls=100, per="hour").status.available == 10.0

    def test_a_clock_that_was_put_back_wins_nothing_back(self, tmp_path: Path) -> None:
        time = Time()
        first = opened(tmp_path / "budget", time, calls=100, per="hour")
        for _ in range(10):
            first.claim(None).reserve(Cost())
        time.now -= 1e5
        assert opened(tmp_path / "budget", time, calls=100, per="hour").status.available == 0.0

    def test_a_machine_that_went_down_leaves_nothing_and_one_that_was_shut_down_leaves_all(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        time, path = Time(), tmp_path / "budget"
        for closed, available in ((True, 9.0), (False, 0.0)):
            path.unlink(missing_ok=True)
            first = opened(path, time, calls=100, per="hour")
            first.claim(None).reserve(Cost())
            if closed:
                first.close()
            monkeypatch.setattr("stage2_bridge.protection.budget.state_file.boot_id", lambda: "another")
            with capture_logs() as logs:
                assert opened(path, time, calls=100, per="hour").status.available == available
            assert [entry["event"] for entry in logs] == ([] if closed else ["budget_unsure"])
            monkeypatch.undo()

    def test_a_write_that_was_cut_short_leaves_the_one_before_and_a_damaged_file_nothing(self, tmp_path: Path) -> None:
        time, path = Time(), tmp_path / "budget"
        first = opened(path, time, calls=100, per="hour")
        for _ in range(4):
            first.claim(None).reserve(Cost())
        content = bytearray(path.read_bytes())
        places = [content[:PLACE_BYTES], content[PLACE_BYTES:]]
        newest = max((0, 1), key=lambda place: json.loads(places[place].split(b" ", 1)[1])["number"])
        content[newest * PLACE_BYTES + 40] ^= 1
        path.write_bytes(content)
        assert opened(path, time, calls=100, per="hour").status.available == 7.0
        path.write_bytes(b"nonsense" * 200)
        with capture_logs() as logs:
            assert opened(path, time, calls=100, per="hour").status.available == 0.0
        assert [entry["event"] for entry in logs] == ["budget_file_damaged"]

    def test_what_cannot_be_written_down_is_not_spent(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        time = Time()
        budget = opened(tmp_path / "budget", time, calls=100, per="hour")

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "pwrite", full)
        with capture_logs() as logs:
            assert budget.claim(None).reserve(Cost()) is None
        assert [entry["event"] for entry in logs] == ["budget_not_written"]
        monkeypatch.undo()
        assert budget.claim(None).reserve(Cost()) is not None
        assert budget.status.spent == 1.0


class TestChange:
    def test_another_limit_forgets_nothing_that_was_spent(self, tmp_path: Path) -> None:
        time = Time()
        budget = opened(tmp_path / "budget", time, calls=100, per="hour")
        for _ in range(10):
            budget.claim(None).reserve(Cost())
        budget.change(BudgetSettings(calls=1000, per="hour"), 1.0)
        assert (budget.status.available, budget.status.spent, budget.status.limit) == (0.0, 10.0, 1000.0)
        time.now += HOUR
        budget.change(BudgetSettings(calls=10, per="hour"), 1.0)
        assert budget.status.available == 1.0

    def test_another_unit_begins_with_nothing_and_settles_nothing_of_the_old_one(self, tmp_path: Path) -> None:
        time = Time()
        budget = opened(tmp_path / "budget", time, calls=100, per="hour")
        under_way = budget.claim(None).reserve(Cost())
        assert under_way is not None
        budget.change(BudgetSettings(money=5.0), 0.01)
        under_way.give_back()
        assert (budget.status.available, budget.status.spent, budget.status.unit) == (0.0, 0.0, "money")

    def test_a_budget_that_is_lifted_lets_all_pass_and_one_that_is_closed_none(self, tmp_path: Path) -> None:
        time = Time()
        for lifted in (True, False):
            budget = opened(tmp_path / str(lifted), time, calls=100, per="hour")
            budget.lift() if lifted else budget.close()
            found = [budget.claim(0.5).reserve(Cost()) for _ in range(50)]
            assert [one is not None for one in found] == [lifted] * 50
            for one in found:
                if one is not None:
                    one.settle(None)


def test_the_order_by_uncertainty_has_the_threshold_of_the_latest_images() -> None:
    order = UncertaintyOrder()
    assert order.threshold(0.25) == pytest.approx(0.375)
    rng = np.random.default_rng(0)
    for _ in range(5000):
        order.gain(float(rng.beta(0.3, 0.3)))
    latest = [order.gain(float(rng.beta(2, 2))) for _ in range(1024)]
    for share in (0.1, 0.5, 0.9):
        assert np.mean(np.array(latest) >= order.threshold(share)) == pytest.approx(share, abs=0.002)
    assert order.threshold(1.0) == 0.0

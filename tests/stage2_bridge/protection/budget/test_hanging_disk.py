"""A budget on a disk that hangs: nothing is spent that is not written down, and no request waits longer than it can."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.machine.disk.disk_thread import DiskThread
from stage2_bridge.client import OverBudget, ServerIdentity
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.protection.settings import BudgetSettings
from stage2_bridge.servers.member import Member
from stage2_bridge.servers.preferred import PreferredServers

LIMIT_S = 60.0


class Time:
    """Of the disk alone."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Server:
    """Answers at once, and counts how often it was asked."""

    name = "one"

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002  it answers whatever it is asked
        self.asked += 1
        return 0.5

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002  as above
        return "it is there"

    async def identity(self, timeout_s: float) -> ServerIdentity:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@pytest.fixture
def disk() -> DiskThread:
    return DiskThread("budget", clock=Time())


@pytest.fixture
def hang(disk: DiskThread) -> Iterator[threading.Event]:
    """The disk hangs until this is set."""
    goes_on, hangs = threading.Event(), threading.Event()

    def wait() -> None:
        hangs.set()
        goes_on.wait(LIMIT_S)

    def begin() -> None:
        disk.submit(wait)
        assert hangs.wait(LIMIT_S)

    goes_on.begin = begin  # type: ignore[attr-defined]
    yield goes_on
    goes_on.set()


def opened(path: Path, disk: DiskThread | None) -> Budget:
    settings = BudgetSettings(calls=1000)
    return Budget(settings, 1.0, StateFile(path), clock=lambda: 0.0, now=lambda: 1e6, disk=disk)


def test_what_was_spent_is_on_disk_before_the_call_is_sent(tmp_path: Path, disk: DiskThread) -> None:
    async def scenario() -> None:
        budget = opened(tmp_path / "budget", disk)
        paid = budget.claim(None).reserve(Cost())
        assert paid is not None
        assert await paid.is_written(LIMIT_S)
        again = StateFile(tmp_path / "budget")
        state, _ = again.read()
        again.close()
        assert state is not None
        assert state.spent == 1
        await budget.closed(LIMIT_S)

    asyncio.run(scenario())


def test_a_call_whose_cost_is_not_written_in_time_is_not_sent_and_costs_nothing(
    tmp_path: Path, disk: DiskThread, hang: threading.Event
) -> None:
    async def scenario() -> None:
        budget, server = opened(tmp_path / "budget", disk), Server()
        member = Member(server, Breaker(lambda: 0.0), 1, cost=Cost())
        servers = PreferredServers([member], asyncio.get_running_loop().time, budget=budget)
        assert await servers.ask(b"image", LIMIT_S) == 0.5
        hang.begin()  # type: ignore[attr-defined]
        with pytest.raises(OverBudget, match="written down in time"):
            await servers.ask(b"image", 0.05)
        assert (server.asked, budget.status.spent, member.in_flight) == (1, 1, 0)
        # Once it is known to hang, nobody waits for it.
        assert isinstance(disk._clock, Time)
        disk._clock.now = 5.0
        with pytest.raises(OverBudget, match="does not allow"):
            await servers.ask(b"image", LIMIT_S)
        hang.set()
        await asyncio.wrap_future(disk.submit(lambda: None))
        assert await servers.ask(b"image", LIMIT_S) == 0.5
        await budget.closed(LIMIT_S)
        after = opened(tmp_path / "budget", None)
        assert after.status.spent == 2

    asyncio.run(scenario())


def test_the_end_of_a_miner_does_not_wait_for_it(tmp_path: Path, disk: DiskThread, hang: threading.Event) -> None:
    async def scenario() -> None:
        budget = opened(tmp_path / "budget", disk)
        hang.begin()  # type: ignore[attr-defined]
        async with asyncio.timeout(LIMIT_S):
            await budget.closed(0.01)
        assert budget.claim(None).reserve(Cost()) is None

    asyncio.run(scenario())


def test_a_slow_disk_is_asked_for_no_more_than_the_latest_state(
    tmp_path: Path, disk: DiskThread, hang: threading.Event
) -> None:
    async def scenario() -> None:
        budget = opened(tmp_path / "budget", disk)
        hang.begin()  # type: ignore[attr-defined]
        first = budget.claim(None).reserve(Cost())
        assert first is not None
        for _ in range(50):
            paid = budget.claim(None).reserve(Cost())
            assert paid is not None
            paid.give_back()
        last = budget.claim(None).reserve(Cost())
        assert last is not None
        assert disk.waiting == 1
        hang.set()
        assert [await one.is_written(LIMIT_S) for one in (first, last)] == [True, True]
        again = StateFile(tmp_path / "budget")
        state, _ = again.read()
        again.close()
        assert state is not None
        assert (state.spent, state.closed) == (2, False)
        await budget.closed(LIMIT_S)
        assert opened(tmp_path / "budget", None).status.spent == 2

    asyncio.run(scenario())


def test_a_machine_without_a_thread_left_has_nothing_spent_that_is_not_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    budget = opened(tmp_path / "budget", DiskThread("budget"))
    assert budget.claim(None).reserve(Cost()) is None
    assert budget.status.spent == 0

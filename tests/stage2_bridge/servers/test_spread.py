"""Several servers as one: equals, hedges, pauses, probes, and the cap on bytes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from engines.errors import RemoteError
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import NamedProbability, Outcome, OverBudget, ServerIdentity, Stage2Error, TooSlow
from stage2_bridge.protection.breaker import Breaker
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.protection.byte_rate import ByteRate
from stage2_bridge.protection.settings import BudgetSettings, HedgeSettings
from stage2_bridge.servers.member import Member
from stage2_bridge.servers.preferred import PreferredServers
from tests.support.virtual_time import clock, run

GONE = RemoteError("nobody there", passing=True)
HEDGED = HedgeSettings(enabled=True)


def spread(number: int) -> float:
    """About a tenth of a second, for no two of a hundred requests the same."""
    return 0.1 + 1e-4 * (number * 37 % 101)


@dataclass
class Server:
    """Answers 0.5 after as long as it is told, for each request by itself."""

    name: str
    takes_s: Callable[[int], float] = lambda _: 0.1
    error: Exception | None = None
    asked: int = 0
    given_up: int = 0
    probed: list[float] = field(default_factory=list)
    is_there: bool = True

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.asked += 1
        try:
            await asyncio.sleep(self.takes_s(self.asked))
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if self.error is not None:
            raise self.error
        return 0.5

    async def check(self, timeout_s: float) -> str:  # noqa: ARG002
        return "ready"

    async def identity(self, timeout_s: float) -> ServerIdentity:  # noqa: ARG002
        return ServerIdentity("fake", self.name, "", "", "")

    async def probe(self, timeout_s: float) -> None:  # noqa: ARG002
        self.probed.append(clock())
        if not self.is_there:
            raise GONE

    async def close(self) -> None:
        pass


def several(*servers: Server, most: int = 64, equal: bool = False, rate: ByteRate | None = None, **more: Any) -> Any:
    members = [
        Member(one, Breaker(clock), most, equal=equal and place > 0, rate=rate) for place, one in enumerate(servers)
    ]
    return PreferredServers(members, clock, **more)


class TestEquals:
    def test_share_the_load_by_what_each_has_under_way(self) -> None:
        async def scenario() -> tuple[int, int]:
            fast, slow = Server("fast"), Server("slow", lambda _: 1.0)
            servers = several(fast, slow, equal=True)
            asking = []
            for _ in range(500):
                asking.append(asyncio.ensure_future(servers.ask(b"", 9.0)))
                await asyncio.sleep(0.02)
            await asyncio.gather(*asking)
            return fast.asked, slow.asked

        fast, slow = run(scenario())
        # Of equal load one answers ten times as many.
        assert fast > 6 * slow > 0

    def test_take_turns_where_neither_has_anything_to_do(self) -> None:
        async def scenario() -> list[int]:
            servers = [Server(name) for name in "abc"]
            pool = several(*servers, equal=True)
            for _ in range(30):
                await pool.ask(b"", 9.0)
            return [one.asked for one in servers]

        assert min(run(scenario())) >= 8

    def test_one_that_was_slow_is_tried_again_and_gets_its_share_once_it_is_quick(self) -> None:
        async def scenario() -> list[int]:
            first, second = Server("a"), Server("b", lambda number: 2.0 if number <= 5 else 0.1)
            servers = several(first, second, equal=True)
            shares = []
            for _ in range(4):
                before = second.asked
                asking = []
                for _ in range(400):
                    asking.append(asyncio.ensure_future(servers.ask(b"", 9.0)))
                    await asyncio.sleep(0.05)
                await asyncio.gather(*asking)
                shares.append(second.asked - before)
            return shares

        shares = run(scenario())
        assert shares[0] < 100
        assert 150 < shares[-1] < 250

    def test_come_before_a_server_of_lower_rank_until_both_are_full(self) -> None:
        async def scenario() -> list[int]:
            servers = [Server(name) for name in "abc"]
            members = [Member(one, Breaker(clock), 2, equal=one.name == "b") for one in servers]
            pool = PreferredServers(members, clock)
            await asyncio.gather(*(pool.ask(b"", 9.0) for _ in range(5)))
            return [one.asked for one in servers]

        assert run(scenario()) == [2, 2, 1]


class TestHedge:
    def test_a_second_server_is_asked_for_what_takes_longer_than_most(self) -> None:
        async def scenario() -> None:
            first = Server("a", lambda number: 5.0 if number % 25 == 0 else spread(number))
            second = Server("b")
            servers = several(first, second, hedge=HEDGED)
            took = []
            for _ in range(400):
                began = clock()
                await servers.ask(b"", 9.0)
                took.append(clock() - began)
            assert max(took) == pytest.approx(0.21, abs=0.01)
            # One in 25 is slow, and the slowest of the others are asked for twice too.
            assert 16 <= second.asked <= 0.1 * 400 + 5
            assert servers.hedges == {"begun": second.asked, "won": 16}

        run(scenario())

    def test_is_off_by_default(self) -> None:
        async def scenario() -> int:
            second = Server("b")
            servers = several(Server("a", lambda number: 5.0 if number % 20 == 0 else 0.1), second)
            for _ in range(100):
                await servers.ask(b"", 9.0)
            return second.asked

        assert run(scenario()) == 0

    def test_is_for_a_part_of_the_hand_offs_alone_where_all_have_become_slow(self) -> None:
        async def scenario() -> int:
            servers = several(
                Server("a", lambda number: spread(number) if number <= 100 else 2.0),
                Server("b", lambda _: 2.0),
                hedge=HEDGED,
            )
            for _ in range(100):
                await servers.ask(b"", 9.0)
            for _ in range(10):
                await asyncio.gather(*(servers.ask(b"", 9.0) for _ in range(20)))
            return int(servers.hedges["begun"])

        assert 0 < run(scenario()) <= 5 + 0.1 * 300

    def test_the_first_verdict_counts_whoever_gives_it(self) -> None:
        async def scenario() -> None:
            first, second = (
                Server("a", lambda number: spread(number) if number <= 20 else 0.3),
                Server("b", lambda _: 5.0),
            )
            servers = several(first, second, hedge=HEDGED)
            for _ in range(20):
                await servers.ask(b"", 9.0)
            assert (await servers.ask(b"", 9.0)).server == "a"
            await asyncio.sleep(0)
            assert second.asked == second.given_up > 0
            assert servers.hedges["won"] == 0

        run(scenario())

    def test_one_that_fails_leaves_it_to_the_other_and_two_that_fail_are_a_failure(self) -> None:
        async def scenario() -> None:
            first = Server("a", lambda number: spread(number) if number <= 40 else 0.3)
            second = Server("b", lambda _: 5.0)
            servers = several(first, second, hedge=HEDGED)
            for _ in range(40):
                await servers.ask(b"", 9.0)
            second.takes_s = lambda _: 0.1
            second.error = RemoteError("status 500", status=500)
            assert (await servers.ask(b"", 9.0)).server == "a"
            first.error = RemoteError("status 504", status=504)
            with pytest.raises(Stage2Error, match="b: status 500"):
                await servers.ask(b"", 9.0)

        run(scenario())

    def test_what_was_not_computed_is_sent_once_more_as_without_it(self) -> None:
        async def scenario() -> None:
            first, second = Server("a"), Server("b")
            servers = several(first, second, hedge=HEDGED)
            for _ in range(20):
                await servers.ask(b"", 9.0)
            first.error = GONE
            # It says so at once.
            first.takes_s = second.takes_s = lambda _: 0.01
            assert (await servers.ask(b"", 9.0)).server == "b"
            second.error = GONE
            with pytest.raises(Stage2Error, match="b: nobody there"):
                await servers.ask(b"", 9.0)
            assert (first.asked, second.asked) == (22, 2 + servers.hedges["begun"])

        run(scenario())

    def test_whoever_gives_up_takes_both_calls_along(self) -> None:
        async def scenario() -> None:
            first = Server("a", lambda number: spread(number) if number <= 20 else 1e6)
            second = Server("b", lambda _: 1e6)
            servers = several(first, second, hedge=HEDGED)
            for _ in range(20):
                await servers.ask(b"", 9.0)
            asking = asyncio.ensure_future(servers.ask(b"", 1e6))
            await asyncio.sleep(1.0)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await asyncio.sleep(0)
            assert (first.given_up, second.given_up, servers._asking) == (1, 1, 0)
            assert [one.in_flight for one in servers.servers] == [0, 0]

        run(scenario())


class TestPause:
    def test_a_server_that_asks_for_one_is_left_alone_for_it(self) -> None:
        async def scenario() -> None:
            first, second = Server("a"), Server("b")
            servers = several(first, second)
            first.error = RemoteError("status 429", status=429, passing=True, retry_after_s=3.0)
            for _ in range(10):
                assert (await servers.ask(b"", 9.0)).server == "b"
            assert (first.asked, servers.states["a"]) == (1, "resting")
            first.error = None
            await asyncio.sleep(3.0)
            assert (await servers.ask(b"", 9.0)).server == "a"

        run(scenario())

    def test_the_only_server_is_waited_for_if_there_is_time(self) -> None:
        async def scenario() -> tuple[float, int]:
            only = Server("a", error=RemoteError("status 503", status=503, passing=True, retry_after_s=3.0))
            servers = several(only)
            with pytest.raises(Stage2Error, match="503"):
                await servers.ask(b"", 2.0)
            only.error = None
            began = clock()
            with pytest.raises(Stage2Error, match="a is resting"):
                await servers.ask(b"", 1.0)
            assert clock() == began
            await asyncio.gather(*(servers.ask(b"", 9.0) for _ in range(3)))
            return clock(), only.asked

        ended, asked = run(scenario())
        assert ended == pytest.approx(3.2)
        assert asked == 4

    def test_one_that_asks_for_an_hour_is_tried_before(self) -> None:
        async def scenario() -> str:
            only = Server("a", error=RemoteError("status 503", status=503, passing=True, retry_after_s=3600.0))
            servers = several(only)
            with pytest.raises(Stage2Error):
                await servers.ask(b"", 5.0)
            only.error = None
            await asyncio.sleep(30)
            return (await servers.ask(b"", 5.0)).server  # type: ignore[no-any-return]

        assert run(scenario()) == "a"


class TestProbe:
    def test_an_idle_server_is_probed_and_one_that_is_asked_is_not(self) -> None:
        async def scenario() -> None:
            busy, idle = Server("busy"), Server("idle")
            servers = several(busy, idle, probe_s=15.0)
            bridge = Bridge(servers, max_in_flight=4, clock=clock)
            watching = asyncio.ensure_future(bridge.watch())
            for _ in range(600):
                await bridge.ask(b"", clock() + 5.0)
            watching.cancel()
            assert busy.probed == []
            assert 3 <= len(idle.probed) <= 5

        run(scenario())

    def test_one_that_does_not_answer_is_asked_last_until_it_does(self) -> None:
        async def scenario() -> None:
            first, second = Server("a"), Server("b")
            servers = several(first, second, probe_s=15.0)
            watching = asyncio.ensure_future(Bridge(servers, max_in_flight=4, clock=clock).watch())
            first.is_there = False
            with capture_logs() as logs:
                await asyncio.sleep(20)
                assert servers.states == {"a": "down", "b": "closed"}
                assert (await servers.ask(b"", 5.0)).server == "b"
                first.is_there = True
                await asyncio.sleep(2)
                assert (await servers.ask(b"", 5.0)).server == "a"
            watching.cancel()
            assert [(entry["server"], entry["state"]) for entry in logs] == [("a", "down"), ("a", "there again")]

        run(scenario())

    def test_the_only_server_is_asked_all_the_same_and_its_answer_says_more_than_a_probe(self) -> None:
        async def scenario() -> None:
            only = Server("a", is_there=False)
            servers = several(only, probe_s=15.0)
            await servers.probe()
            assert servers.states == {"a": "down"}
            await servers.ask(b"", 5.0)
            assert servers.states == {"a": "closed"}

        run(scenario())

    def test_none_is_sent_where_that_is_not_wanted(self) -> None:
        async def scenario() -> list[float]:
            server = Server("a")
            await several(server).probe()
            return server.probed

        assert run(scenario()) == []


def test_the_cap_on_bytes_holds_for_all_servers_together_and_what_has_no_time_is_busy() -> None:
    async def scenario() -> None:
        rate = ByteRate(1000, clock)
        servers = several(Server("a"), Server("b"), equal=True, rate=rate)
        bridge = Bridge(servers, max_in_flight=64, clock=clock)
        verdicts = await asyncio.gather(*(bridge.ask(bytes(500), 4.2) for _ in range(20)))
        counts = Counter(one.outcome for one in verdicts)
        assert counts == {Outcome.ANSWERED: 10, Outcome.BUSY: 10}
        assert {one.reason for one in verdicts if one.outcome is Outcome.BUSY} == {
            "1000 bytes a second are sent already, and the next may go in 4.5 s"
        }
        # Nobody's failure.
        assert servers.states == {"a": "closed", "b": "closed"}

    run(scenario())


def test_hedged_images_that_come_together_share_equals_and_no_server_gets_more_than_it_takes() -> None:
    async def scenario() -> list[int]:
        servers = [Server(name) for name in "abc"]
        members = [Member(one, Breaker(clock), 2, equal=one.name == "b") for one in servers]
        pool = PreferredServers(members, clock, hedge=HEDGED)
        for _ in range(40):
            await pool.ask(b"", 9.0)
        before = [one.asked for one in servers]
        asking = [asyncio.ensure_future(pool.ask(b"", 9.0)) for _ in range(5)]
        # Before any of them takes so long that another server is asked too.
        await asyncio.sleep(0.01)
        found = [one.asked - asked for one, asked in zip(servers, before, strict=True)]
        await asyncio.gather(*asking)
        await asyncio.sleep(1.0)
        assert [one.in_flight for one in members] == [0, 0, 0]
        return found

    assert run(scenario()) == [2, 2, 1]


def test_a_hedged_image_whose_task_is_ended_before_it_is_sent_costs_nothing_and_takes_no_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        file, settings = StateFile(tmp_path / "budget"), BudgetSettings(calls=1000)
        budget = Budget(settings, 1.0, file, clock=clock, now=clock)
        members = [Member(Server(name), Breaker(clock), 2, cost=Cost()) for name in "ab"]
        pool = PreferredServers(members, clock, hedge=HEDGED, budget=budget)
        for _ in range(40):
            await pool.ask(b"", 9.0)
        spent = budget.status.spent
        asking = asyncio.ensure_future(pool.ask(b"", 9.0))
        await asyncio.sleep(0)
        assert members[0].in_flight == 1
        # As the loop does it at its end.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for one in others:
            one.cancel()
        await asyncio.wait({asking})
        await asyncio.sleep(0)
        assert (budget.status.spent, members[0].in_flight) == (spent, 0)

    run(scenario())


class Order:
    """Hands on what is more likely roadwork than not."""

    def gain(self, p: float) -> float:
        return p

    def threshold(self, share: float) -> float:  # noqa: ARG002
        return 0.5


def test_who_is_called_to_a_place_that_it_cannot_pay_for_leaves_it_to_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        file, settings = StateFile(tmp_path / "budget"), BudgetSettings(calls=100)
        budget = Budget(settings, 1.0, file, clock=clock, now=clock, order=Order())
        member = Member(Server("a", lambda _: 1.0), Breaker(clock), 1, cost=Cost())
        servers = PreferredServers([member], clock, budget=budget)
        asking = [asyncio.ensure_future(servers.ask(b"", 9.0, probability=p)) for p in (1.0, 0.0, 1.0)]
        found = await asyncio.gather(*asking, return_exceptions=True)
        assert [type(one) for one in found] == [NamedProbability, OverBudget, NamedProbability]
        assert clock() == pytest.approx(2.0)

    run(scenario())


def test_calls_that_the_budget_has_not_all_together_cost_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        file, settings = StateFile(tmp_path / "budget"), BudgetSettings(calls=20)
        budget = Budget(settings, 1.0, file, clock=clock, now=clock)
        member = Member(Server("a"), Breaker(clock), 1, cost=Cost())
        assert not await member.affords(budget, 3)
        assert budget.status.spent == 0
        assert await member.affords(budget, 2)
        assert budget.status.spent == 2

    run(scenario())


def test_a_server_that_is_too_slow_is_a_timeout_and_says_so() -> None:
    async def scenario() -> None:
        servers = several(Server("a", error=RemoteError("no reply within 4 s", timed_out=True)))
        with pytest.raises(TooSlow):
            await servers.ask(b"", 5.0)
        verdict = await Bridge(servers, max_in_flight=1, clock=clock).ask(b"", clock() + 5.0)
        assert (verdict.outcome, verdict.reason) == (Outcome.TIMEOUT, "a: no reply within 4 s")

    run(scenario())


def test_one_server_that_is_asked_by_its_name_has_a_place_is_paid_and_nobody_takes_its_part(tmp_path: Path) -> None:
    async def scenario() -> None:
        file, settings = StateFile(tmp_path / "budget"), BudgetSettings(calls=20)
        budget = Budget(settings, 1.0, file, clock=clock, now=clock)
        first, second = Server("a"), Server("b", lambda _: 1.0)
        servers = PreferredServers([Member(one, Breaker(clock), 1, cost=Cost()) for one in (first, second)], clock)
        servers._budget = budget
        asking = asyncio.ensure_future(servers.ask_one("b", b"", 5.0))
        await asyncio.sleep(0.5)
        assert (servers._asking, budget.status.spent) == (1, 1)
        with pytest.raises(Stage2Error, match="b cannot be asked, for it is full"):
            await servers.ask_one("b", b"", 5.0)
        found = await asking
        assert (found, found.server) == (0.5, "b")
        with pytest.raises(Stage2Error, match="c cannot be asked, for it is none of the servers"):
            await servers.ask_one("c", b"", 5.0)
        second.error = GONE
        with pytest.raises(Stage2Error, match="b: nobody there"):
            await servers.ask_one("b", b"", 5.0)
        # What was not sent costs nothing.
        assert (first.asked, second.asked, servers._asking, budget.status.spent) == (0, 2, 0, 1)
        await servers.ask_one("a", b"", 5.0)
        with pytest.raises(OverBudget, match="the budget does not allow a call to a"):
            await servers.ask_one("a", b"", 5.0)

    run(scenario())


def test_who_waits_for_a_server_that_costs_nothing_keeps_nobody_from_one_that_is_paid(tmp_path: Path) -> None:
    async def scenario() -> None:
        file, settings = StateFile(tmp_path / "budget"), BudgetSettings(calls=100)
        budget = Budget(settings, 1.0, file, clock=clock, now=clock, order=Order())
        paid = Member(Server("paid", lambda _: 1.0), Breaker(clock), 1, cost=Cost())
        free = Member(Server("free", lambda _: 3.0), Breaker(clock), 1)
        servers = PreferredServers([paid, free], clock, budget=budget)
        ended: list[tuple[float, float, str]] = []

        async def ask(probability: float) -> None:
            found = await servers.ask(b"", 9.0, probability=probability)
            ended.append((probability, round(clock(), 3), found.server))

        await asyncio.gather(*(ask(one) for one in (1.0, 0.9, 0.1, 0.8)))
        # The third waits for the free one alone, and the fourth is not behind it.
        assert ended == [(1.0, 1.0, "paid"), (0.8, 2.0, "paid"), (0.9, 3.0, "free"), (0.1, 6.0, "free")]

    run(scenario())

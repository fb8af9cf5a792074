"""Images that come again: one call, one verdict, and no failure that is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome, Stage2Error, Verdict
from stage2_bridge.protection.settings import CacheSettings
from tests.support.virtual_time import clock, run

KEPT = CacheSettings(window_s=60.0, entries=8)


class Server:
    """Answers as told, and counts."""

    name = "server"

    def __init__(self, behaviour: Callable[[int], Awaitable[float]]) -> None:
        self.asked: list[bytes] = []
        self._behaviour = behaviour

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        self.asked.append(content)
        return await self._behaviour(len(self.asked))

    async def close(self) -> None:
        pass


def after(seconds: float, *answers: float | Exception) -> Server:
    async def behaviour(number: int) -> float:
        await asyncio.sleep(seconds)
        found = answers[min(number, len(answers)) - 1]
        if isinstance(found, Exception):
            raise found
        return found

    return Server(behaviour)


def bridge_to(server: Server, **more: Any) -> Bridge:
    return Bridge(server, max_in_flight=4, max_waiting=8, cache=KEPT, clock=clock, **more)


def told(verdict: Verdict) -> tuple[Outcome, float | None, bool]:
    return verdict.outcome, verdict.probability, verdict.cached


def test_the_same_bytes_share_a_call_while_it_is_under_way_and_afterwards() -> None:
    async def scenario() -> None:
        server = after(1.0, 0.8)
        bridge = bridge_to(server)
        verdicts = await asyncio.gather(*(bridge.ask(b"one", 5.0) for _ in range(3)), bridge.ask(b"other", 5.0))
        assert [told(one) for one in verdicts] == [
            (Outcome.ANSWERED, 0.8, False),
            (Outcome.ANSWERED, 0.8, True),
            (Outcome.ANSWERED, 0.8, True),
            (Outcome.ANSWERED, 0.8, False),
        ]
        later = await bridge.ask(b"one", clock() + 5.0)
        assert (*told(later), later.latency_ms, later.server) == (Outcome.ANSWERED, 0.8, True, 0.0, "server")
        assert server.asked == [b"one", b"other"]
        assert bridge.stats.cached == {"under_way": 2, "finished": 1}

    run(scenario())


def test_a_verdict_is_used_for_its_window_and_not_longer() -> None:
    async def scenario() -> None:
        server = after(0.0, 0.8)
        bridge = bridge_to(server)
        for at_s, asked in ((0.0, 1), (59.9, 1), (60.0, 2), (119.0, 2)):
            await asyncio.sleep(at_s - clock())
            await bridge.ask(b"one", clock() + 5.0)
            assert len(server.asked) == asked, at_s

    run(scenario())


def test_the_number_of_verdicts_is_bounded_and_the_oldest_go() -> None:
    async def scenario() -> None:
        server = after(0.0, 0.8)
        bridge = bridge_to(server)
        for number in range(100):
            await bridge.ask(str(number).encode(), clock() + 5.0)
        assert len(bridge._cache or ()) == 8
        await bridge.ask(b"99", clock() + 5.0)
        await bridge.ask(b"0", clock() + 5.0)
        assert len(server.asked) == 101

    run(scenario())


def test_a_failure_is_shared_and_not_kept() -> None:
    async def scenario() -> None:
        server = after(1.0, Stage2Error("no"), 0.7)
        bridge = bridge_to(server)
        verdicts = await asyncio.gather(*(bridge.ask(b"one", 5.0) for _ in range(2)))
        assert [(one.outcome, one.reason) for one in verdicts] == [(Outcome.ERROR, "no")] * 2
        assert told(await bridge.ask(b"one", clock() + 5.0)) == (Outcome.ANSWERED, 0.7, False)
        assert len(server.asked) == 2

    run(scenario())


def test_the_first_caller_leaves_and_the_others_have_their_verdict() -> None:
    async def scenario() -> None:
        server = after(1.0, 0.8)
        bridge = bridge_to(server)
        first = asyncio.ensure_future(bridge.ask(b"one", 5.0))
        await asyncio.sleep(0.2)
        second = asyncio.ensure_future(bridge.ask(b"one", 5.0))
        await asyncio.sleep(0.2)
        first.cancel()
        assert told(await second) == (Outcome.ANSWERED, 0.8, True)
        assert clock() == pytest.approx(1.0)

    run(scenario())


def test_a_call_that_nobody_waits_for_any_more_is_given_up() -> None:
    async def scenario() -> None:
        server = after(1e6, 0.8)
        bridge = bridge_to(server)
        callers = [asyncio.ensure_future(bridge.ask(b"one", 1e9)) for _ in range(2)]
        await asyncio.sleep(1)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert (bridge.stats.in_flight, bridge._flights) == (0, {})

    run(scenario())


def test_who_comes_while_a_call_is_being_given_up_has_one_of_its_own() -> None:
    async def scenario() -> None:
        server = after(1.0, 0.8)
        bridge = bridge_to(server)
        first = asyncio.ensure_future(bridge.ask(b"one", 9.0))
        await asyncio.sleep(0.5)
        first.cancel()
        # Behind the first in the turn of the loop in which it leaves, and before its call has ended.
        await asyncio.sleep(0)
        assert told(await bridge.ask(b"one", 8.0)) == (Outcome.ANSWERED, 0.8, False)

    run(scenario())


def test_a_short_deadline_of_one_caller_cuts_nobody_elses() -> None:
    async def scenario() -> None:
        server = after(2.0, 0.8)
        bridge = bridge_to(server)
        hurried, patient = await asyncio.gather(bridge.ask(b"one", 1.0), bridge.ask(b"one", 9.0))
        assert (hurried.outcome, told(patient)) == (Outcome.TIMEOUT, (Outcome.ANSWERED, 0.8, False))
        assert len(server.asked) == 2
        assert clock() == pytest.approx(3.0)

    run(scenario())


def test_another_server_answers_what_the_old_one_had_answered() -> None:
    async def scenario() -> None:
        old, new = after(1.0, 0.2), after(1.0, 0.9)
        bridge = bridge_to(old)
        await bridge.ask(b"known", 5.0)
        under_way = asyncio.ensure_future(bridge.ask(b"one", clock() + 5.0))
        await asyncio.sleep(0.5)
        bridge.change(new, max_in_flight=4, max_waiting=8, cache=KEPT)
        verdicts = await asyncio.gather(*(bridge.ask(name, clock() + 5.0) for name in (b"known", b"one")))
        assert [one.probability for one in verdicts] == [0.9, 0.9]
        assert (await under_way).probability == 0.2

    run(scenario())


def test_a_bridge_that_is_given_more_room_calls_who_waits_and_one_that_is_given_less_lets_them_end() -> None:
    async def scenario() -> None:
        server = after(1.0, 0.5)
        bridge = Bridge(server, max_in_flight=1, max_waiting=8, clock=clock)
        asking = [asyncio.ensure_future(bridge.ask(b"", 9.0)) for _ in range(6)]
        await asyncio.sleep(0.5)
        bridge.change(server, max_in_flight=4, max_waiting=8, cache=CacheSettings(window_s=0))
        await asyncio.sleep(0.1)
        assert (bridge.stats.in_flight, bridge.stats.waiting) == (4, 2)
        bridge.change(server, max_in_flight=1, max_waiting=8, cache=CacheSettings(window_s=0))
        await asyncio.sleep(1.0)
        assert (bridge.stats.in_flight, bridge.stats.waiting) == (1, 1)
        assert {(await one).outcome for one in asking} == {Outcome.ANSWERED}

    run(scenario())

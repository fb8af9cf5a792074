"""Images that wait share a call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from engines.errors import RemoteError
from stage2_bridge.client import Stage2Error
from stage2_bridge.servers.shared_calls import Answer, SharedCalls
from tests.support.virtual_time import run


class Calls:
    """Doubles each number, when it is let."""

    def __init__(self) -> None:
        self.made: list[list[float]] = []
        self.given: list[float] = []
        self.go = asyncio.Event()
        self.under_way = 0

    async def __call__(self, items: Sequence[float], timeout_s: float) -> list[Answer]:
        self.made.append(list(items))
        self.given.append(timeout_s)
        self.under_way += 1
        try:
            await self.go.wait()
        finally:
            self.under_way -= 1
        return [Stage2Error("no number") if item < 0 else 2 * item for item in items]


def test_those_that_wait_go_together_each_with_its_own_answer() -> None:
    async def scenario() -> None:
        calls = Calls()
        shared = SharedCalls(calls, calls=2, most=3)
        asked = [asyncio.ensure_future(shared.ask(float(number), 5.0)) for number in range(7)]
        await asyncio.sleep(0.01)
        assert calls.under_way == 2
        calls.go.set()
        assert await asyncio.gather(*asked) == [2.0 * number for number in range(7)]
        await shared.close()

    run(scenario())


def test_calls_at_a_time_and_items_of_a_call_are_bounded() -> None:
    async def scenario() -> None:
        calls = Calls()
        shared = SharedCalls(calls, calls=1, most=4)
        first = asyncio.ensure_future(shared.ask(1.0, 5.0))
        await asyncio.sleep(0.01)
        rest = [asyncio.ensure_future(shared.ask(float(number), 5.0)) for number in range(2, 11)]
        await asyncio.sleep(0.01)
        assert calls.made == [[1]]
        assert calls.under_way == 1
        calls.go.set()
        await asyncio.gather(first, *rest)
        assert [len(one) for one in calls.made] == [1, 4, 4, 1]

    run(scenario())


def test_what_is_wrong_with_one_is_told_to_that_one_alone() -> None:
    async def scenario() -> None:
        calls = Calls()
        calls.go.set()
        shared = SharedCalls(calls, calls=1, most=8)
        found = await asyncio.gather(*(shared.ask(one, 5.0) for one in (1.0, -1.0, 2.0)), return_exceptions=True)
        assert found[0] == 2.0
        assert isinstance(found[1], Stage2Error)
        assert found[2] == 4.0

    run(scenario())


@pytest.mark.parametrize("error", [RemoteError("status 503", status=503), RuntimeError("a mistake of ours")])
def test_what_is_wrong_with_a_call_is_told_to_all_of_it_and_the_next_goes_on(error: Exception) -> None:
    async def scenario() -> None:
        fails = True

        async def call(items: Sequence[float], timeout_s: float) -> list[Answer]:  # noqa: ARG001
            await asyncio.sleep(0)
            if fails:
                raise error
            return list(items)

        shared = SharedCalls(call, calls=1, most=8)
        found = await asyncio.gather(*(shared.ask(one, 5.0) for one in (1.0, 2.0)), return_exceptions=True)
        assert found == [error, error]
        fails = False
        assert await shared.ask(3.0, 5.0) == 3.0

    run(scenario())


def test_nobody_waits_longer_than_their_own_time_and_a_call_has_that_of_the_most_patient() -> None:
    async def scenario() -> None:
        calls = Calls()
        shared = SharedCalls(calls, calls=1, most=8)
        blocking = asyncio.ensure_future(shared.ask(1.0, 5.0))
        await asyncio.sleep(0.01)
        with pytest.raises(RemoteError, match="no reply within") as caught:
            await shared.ask(2.0, 0.05)
        assert caught.value.timed_out
        patient = [asyncio.ensure_future(shared.ask(one, 2.0 * one)) for one in (3.0, 4.0)]
        await asyncio.sleep(0.01)
        calls.go.set()
        await asyncio.gather(blocking, *patient)
        assert calls.made == [[1.0], [3.0, 4.0]]
        assert calls.given[1] == pytest.approx(8.0, abs=1.0)

    run(scenario())


def test_a_call_ends_once_nobody_waits_for_it() -> None:
    async def scenario() -> None:
        calls = Calls()
        shared = SharedCalls(calls, calls=1, most=8)
        asked = [asyncio.ensure_future(shared.ask(one, 5.0)) for one in (1.0, 2.0)]
        await asyncio.sleep(0.01)
        for one in asked:
            one.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        await asyncio.sleep(0.01)
        assert calls.under_way == 0
        calls.go.set()
        assert await shared.ask(3.0, 5.0) == 6.0

    run(scenario())


def test_closing_ends_what_is_under_way() -> None:
    async def scenario() -> None:
        calls = Calls()
        shared = SharedCalls(calls, calls=1, most=8)
        asked = asyncio.ensure_future(shared.ask(1.0, 0.2))
        await asyncio.sleep(0.01)
        await shared.close()
        assert calls.under_way == 0
        with pytest.raises(RemoteError):
            await asked

    run(scenario())

"""Turns: the costly images of one caller do not hold up the others."""

from __future__ import annotations

import asyncio

from miner.answering.turns import Turns


def worked(asked: list[tuple[str, float]], most: int = 2) -> list[list[str]]:
    """Who works together, step by step, if all have asked before the first has ended."""
    steps: list[list[str]] = []

    async def scenario() -> None:
        turns, now = Turns(most), []
        gate = asyncio.Condition()

        async def work(hotkey: str, priority: float) -> None:
            await turns.begin(hotkey, priority)
            now.append(hotkey)
            async with gate:
                await gate.wait()
            turns.end(hotkey)

        tasks = [asyncio.create_task(work(*one)) for one in asked]
        while not all(task.done() for task in tasks):
            for _ in range(10):
                await asyncio.sleep(0)
            if now:
                steps.append(sorted(now))
                now.clear()
            async with gate:
                gate.notify_all()

    asyncio.run(scenario())
    return steps


def test_one_caller_leaves_a_worker_to_the_others() -> None:
    assert worked([("a", 0.1)] * 4 + [("b", 1.0)] * 2)[:2] == [["a", "b"], ["a", "b"]]


def test_of_two_who_wait_the_larger_stake_is_next() -> None:
    assert worked([("small", 0.1), ("large", 1.0), ("middle", 0.5)], most=1) == [["small"], ["large"], ["middle"]]


def test_who_has_none_at_work_goes_before_a_larger_stake_that_has() -> None:
    assert worked([("large", 1.0)] * 3 + [("small", 0.1)], most=3)[0] == ["large", "large", "small"]


def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    async def scenario() -> list[str]:
        turns, order, first_is_in = Turns(1), [], asyncio.Event()
        let_go = asyncio.Event()

        async def work(name: str) -> None:
            await turns.begin(name, 0.0)
            try:
                order.append(name)
                first_is_in.set()
                await let_go.wait()
            finally:
                turns.end(name)

        tasks = [asyncio.create_task(work(name)) for name in "abcd"]
        await first_is_in.wait()
        tasks[1].cancel()
        await asyncio.sleep(0)
        tasks[0].cancel()
        # Its turn has come in this very moment.
        await asyncio.sleep(0)
        tasks[2].cancel()
        let_go.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await work("e")
        return order

    order = asyncio.run(scenario())
    assert order[0] == "a"
    assert order[-2:] == ["d", "e"]


def test_who_is_given_up_in_the_moment_of_its_turn_keeps_it_from_nobody() -> None:
    async def scenario() -> list[type]:
        turns = Turns(1)
        await turns.begin("first", 0.0)
        called, waiting, last = [asyncio.create_task(turns.begin(name, 0.0)) for name in ("called", "waiting", "last")]
        await asyncio.sleep(0)
        # All in one step of the loop: a turn ends, and the time of two is up.
        turns.end("first")
        called.cancel()
        waiting.cancel()
        ended = await asyncio.gather(called, waiting, return_exceptions=True)
        async with asyncio.timeout(20):
            await last
        turns.end("last")
        async with asyncio.timeout(20):
            await turns.begin("another", 0.0)
        return [type(one) for one in ended]

    assert asyncio.run(scenario()) == [asyncio.CancelledError, asyncio.CancelledError]

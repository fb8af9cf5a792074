"""The bridge always comes back before the deadline, with an answer or with the reason for none."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest

from stage2_bridge.bridge import Bridge, Outcome, Stage2Error, Verdict

SLACK_S = 0.5


class Server:
    """A Stage-2 whose answer is made by a function."""

    name = "server"

    def __init__(self, reply: Callable[[], Awaitable[float]]) -> None:
        self.reply = reply
        self.closed = False

    async def ask(self, content: bytes, timeout_s: float) -> float:  # noqa: ARG002
        return await self.reply()

    async def close(self) -> None:
        self.closed = True


def bridge(reply: Callable[[], Awaitable[float]] | None, *, max_in_flight: int = 4) -> Bridge:
    client = None if reply is None else Server(reply)
    return Bridge(client, max_in_flight=max_in_flight, clock=time.monotonic)


def ask(reply: Callable[[], Awaitable[float]] | None, *, within_s: float = 5.0) -> Verdict:
    async def run() -> Verdict:
        deadline = time.monotonic() + within_s
        verdict = await bridge(reply).ask(b"image", deadline)
        assert time.monotonic() <= max(deadline, deadline - within_s) + SLACK_S
        return verdict

    return asyncio.run(run())


async def never() -> float:
    await asyncio.Event().wait()
    raise AssertionError


async def refuses() -> float:
    raise Stage2Error("overloaded")


def says(probability: float) -> Callable[[], Awaitable[float]]:
    async def reply() -> float:
        return probability

    return reply


def test_an_answer_is_passed_on_with_its_server() -> None:
    verdict = ask(says(0.25))
    assert (verdict.outcome, verdict.probability, verdict.server) == (Outcome.ANSWERED, 0.25, "server")


def test_a_server_that_never_answers_costs_no_more_than_the_deadline() -> None:
    verdict = ask(never, within_s=0.2)
    assert (verdict.outcome, verdict.probability) == (Outcome.TIMEOUT, None)
    assert verdict.latency_ms >= 150


def test_after_the_deadline_the_server_is_not_asked() -> None:
    assert ask(refuses, within_s=-1).outcome is Outcome.TIMEOUT


@pytest.mark.parametrize("probability", [float("nan"), float("inf"), -0.1, 1.1])
def test_what_is_no_probability_is_no_answer(probability: float) -> None:
    verdict = ask(says(probability))
    assert (verdict.outcome, verdict.probability) == (Outcome.ERROR, None)


def test_a_servers_error_is_not_raised() -> None:
    assert ask(refuses).outcome is Outcome.ERROR


def test_a_cascade_may_have_no_second_stage() -> None:
    verdict = ask(None)
    assert (verdict.outcome, verdict.server) == (Outcome.ABSENT, "")


def test_more_hand_offs_than_the_server_takes_are_refused_at_once_and_only_while_it_is_full() -> None:
    async def run() -> tuple[list[Outcome], Outcome]:
        release = asyncio.Event()

        async def waits() -> float:
            await release.wait()
            return 0.5

        way = bridge(waits, max_in_flight=2)
        deadline = time.monotonic() + 20
        waiting = [asyncio.create_task(way.ask(b"image", deadline)) for _ in range(2)]
        await asyncio.sleep(0)
        refused = await way.ask(b"image", deadline)
        release.set()
        answered = [(await task).outcome for task in waiting]
        return [*answered, (await way.ask(b"image", deadline)).outcome], refused.outcome

    outcomes, refused = asyncio.run(run())
    assert refused is Outcome.BUSY
    assert outcomes == [Outcome.ANSWERED] * 3


def test_a_request_that_is_given_up_frees_its_place() -> None:
    async def run() -> Outcome:
        way = bridge(never, max_in_flight=1)
        task = asyncio.create_task(way.ask(b"image", time.monotonic() + 20))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return (await way.ask(b"image", time.monotonic() + 0.05)).outcome

    assert asyncio.run(run()) is Outcome.TIMEOUT

"""The bridge: sends what was deferred to Stage-2 and comes back in time, with an answer or with the reason for none."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from engines.machine.tally import Tally
from stage2_bridge.client import (
    NamedProbability,
    Outcome,
    ServerStatus,
    SeveralServers,
    Stage2Client,
    Stage2Error,
    Verdict,
)
from stage2_bridge.slots import Slots

log = structlog.get_logger(__name__)

CLOSE_S = 2.0
# Of the last answer in the time that answers usually take.
NEW_SHARE = 0.2


@dataclass(frozen=True)
class BridgeStats:
    """What a bridge has done since it began.

    Attributes:
        in_flight: hand-offs that are under way, those that nobody waits for any more among them.
        waiting: images that wait for one of them to end.
        outcomes: what became of the hand-offs so far, by `Outcome`.
        servers: how each server stands, where the client asks several.
    """

    in_flight: int
    waiting: int
    outcomes: dict[str, int]
    servers: tuple[ServerStatus, ...] = ()


class Bridge:
    """Asks Stage-2, bounded in time and in number.

    Args:
        client: the server, or None for a cascade without Stage-2.
        max_in_flight: hand-offs at a time.
        max_waiting: how many more wait for one to end, while what an answer takes is still left of their time; the
            others are refused at once.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, client: Stage2Client | None, *, max_in_flight: int, max_waiting: int = 0, clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._slots = Slots(max_in_flight, max_waiting)
        # What an answer took of late.
        self._usual_s = 0.0
        self._clock = clock
        self._failed = Tally("stage2_failed", clock=clock)
        self._outcomes: Counter[str] = Counter()

    async def ask(self, content: bytes, deadline: float, *, turn: float | None = None) -> Verdict:
        """Hand an image to Stage-2; never raises for anything Stage-2 does.

        Args:
            content: the image as it arrived.
            deadline: monotonic time by which this returns.
            turn: of those that wait for a hand-off the one with the smallest goes first; the deadline if it is not
                given. Where callers choose the deadline themselves, give the time at which they came.
        """
        started = self._clock()
        outcome, probability = await self._outcome(content, deadline - started, deadline if turn is None else turn)
        self._outcomes[outcome.value] += 1
        latency_ms = (self._clock() - started) * 1e3
        if isinstance(probability, NamedProbability):
            return Verdict(outcome, float(probability), latency_ms, probability.server)
        return Verdict(outcome, probability, latency_ms, "" if self._client is None else self._client.name)

    @property
    def stats(self) -> BridgeStats:
        """What it has done so far."""
        servers = self._client.servers if isinstance(self._client, SeveralServers) else ()
        return BridgeStats(self._slots.taken, self._slots.waiting, dict(self._outcomes), servers)

    async def close(self) -> None:
        """Close the client; one that is computing still is not waited for."""
        if self._client is None:
            return
        closing = asyncio.ensure_future(self._client.close())
        await asyncio.wait({closing}, timeout=CLOSE_S)
        if closing.done():
            closing.result()
        else:
            closing.cancel()

    async def _outcome(self, content: bytes, remaining_s: float, turn: float) -> tuple[Outcome, float | None]:
        if self._client is None:
            return Outcome.ABSENT, None
        if remaining_s <= 0:
            return Outcome.TIMEOUT, None
        until = self._clock() + remaining_s
        if not await self._slots.take(turn, remaining_s - self._usual_s):
            return Outcome.BUSY, None
        began = self._clock()
        task = asyncio.ensure_future(_answer(self._client, content, until - began))
        task.add_done_callback(self._ended)
        try:
            # Not `wait_for`: it would wait on for a client that does not let go when it is cancelled.
            await asyncio.wait({task}, timeout=until - began)
        finally:
            task.cancel()
        if not task.done():
            return Outcome.TIMEOUT, None
        outcome, probability = self._result(task, self._client.name)
        if outcome is Outcome.ANSWERED:
            self._usual_s += NEW_SHARE * (self._clock() - began - self._usual_s)
        return outcome, probability

    def _ended(self, task: asyncio.Task[float]) -> None:
        self._slots.give_back()
        if not task.cancelled():
            # Fetched, so that a failure after the deadline does not reach the loop's handler.
            task.exception()

    def _result(self, task: asyncio.Task[float], server: str) -> tuple[Outcome, float | None]:
        try:
            return Outcome.ANSWERED, _checked(task.result())
        except TimeoutError:
            return Outcome.TIMEOUT, None
        except Stage2Error as error:
            log.debug("stage2_failed", server=server, reason=str(error))
            self._failed.add(type(error).__name__, str(error), server=server)
        except (Exception, asyncio.CancelledError) as error:
            # The edge to foreign code: whatever is wrong there, the request is answered with Stage-1's probability.
            log.debug("stage2_failed", server=server, exc_info=error)
            self._failed.add(type(error).__name__, repr(error), error=error, server=server)
        return Outcome.ERROR, None


async def _answer(client: Stage2Client, content: bytes, timeout_s: float) -> float:
    # Whatever is raised, and whenever, ends the hand-off: foreign code may fail before there is anything to wait for.
    return await client.ask(content, timeout_s)


def _checked(probability: float) -> float:
    # Its type is a promise of foreign code.
    if not isinstance(probability, int | float) or not (math.isfinite(probability) and 0 <= probability <= 1):
        raise Stage2Error(f"it answered {probability!r}, which is no probability")
    return probability if isinstance(probability, NamedProbability) else float(probability)

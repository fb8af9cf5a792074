"""The bridge: sends what was deferred to Stage-2 and comes back in time, with an answer or with the reason for none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import structlog

from stage2_bridge.client import Outcome, Stage2Client, Stage2Error, Verdict

log = structlog.get_logger(__name__)


class Bridge:
    """Asks Stage-2, bounded in time and in number.

    Args:
        client: the server, or None for a cascade without Stage-2.
        max_in_flight: hand-offs at a time; more are refused at once, because a queue would only miss deadlines.
        clock: monotonic time in seconds.
    """

    def __init__(self, client: Stage2Client | None, *, max_in_flight: int, clock: Callable[[], float]) -> None:
        self._client = client
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._clock = clock

    async def ask(self, content: bytes, deadline: float) -> Verdict:
        """Hand an image to Stage-2; never raises for anything Stage-2 does.

        Args:
            content: the image as it arrived.
            deadline: monotonic time by which this returns.
        """
        started = self._clock()
        outcome, probability = await self._outcome(content, deadline - started)
        name = "" if self._client is None else self._client.name
        return Verdict(outcome, probability, (self._clock() - started) * 1e3, name)

    async def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            await self._client.close()

    async def _outcome(self, content: bytes, remaining_s: float) -> tuple[Outcome, float | None]:
        if self._client is None:
            return Outcome.ABSENT, None
        if remaining_s <= 0:
            return Outcome.TIMEOUT, None
        if self._in_flight >= self._max_in_flight:
            return Outcome.BUSY, None
        self._in_flight += 1
        task = asyncio.ensure_future(self._client.ask(content, remaining_s))
        task.add_done_callback(self._ended)
        try:
            # Not `wait_for`: it would wait on for a client that does not let go when it is cancelled.
            await asyncio.wait({task}, timeout=remaining_s)
        finally:
            task.cancel()
        if not task.done():
            return Outcome.TIMEOUT, None
        return self._result(task, self._client.name)

    def _ended(self, task: asyncio.Task[float]) -> None:
        self._in_flight -= 1
        if not task.cancelled():
            # Fetched, so that a failure after the deadline does not reach the loop's handler.
            task.exception()

    def _result(self, task: asyncio.Task[float], server: str) -> tuple[Outcome, float | None]:
        try:
            return Outcome.ANSWERED, _checked(task.result())
        except TimeoutError:
            return Outcome.TIMEOUT, None
        except Stage2Error as error:
            log.warning("stage2_failed", server=server, reason=str(error))
        except (Exception, asyncio.CancelledError):
            # The edge to foreign code: whatever is wrong there, the request is answered with Stage-1's probability.
            log.exception("stage2_failed", server=server)
        return Outcome.ERROR, None


def _checked(probability: float) -> float:
    # Its type is a promise of foreign code.
    if not isinstance(probability, int | float) or not (math.isfinite(probability) and 0 <= probability <= 1):
        raise Stage2Error(f"it answered {probability!r}, which is no probability")
    return float(probability)

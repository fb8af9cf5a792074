"""Several endpoints of the chain as one: the first that answers serves, and one that failed is left for a while."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from miner.chain.port import ChainPort, ChainSnapshot, checked
from miner.chain.settings import ChainSettings
from miner.errors import ChainStuck, ChainUnavailable

log = structlog.get_logger(__name__)

# The pause before an endpoint is tried again doubles up to so many times the first.
MOST_DOUBLED = 16
Answer = TypeVar("Answer")


@dataclass(eq=False)
class Endpoint:
    """One endpoint.

    Attributes:
        name: what is told of it.
        chain: how it is asked.
        failures: in a row.
        retry_at: when it is preferred again, on the monotonic clock.
    """

    name: str
    chain: ChainPort
    failures: int = 0
    retry_at: float = float("-inf")


class FailoverChain:
    """A `ChainPort` over endpoints in order of preference.

    A call asks them one after the other until one answers, so it takes at most the deadlines of all. One that failed is
    asked last until its pause is over, and the pause doubles with each failure. An endpoint has failed as well if it
    has no neurons, or if none of its blocks is later than one that was known `chain.stuck_s` ago.

    Args:
        endpoints: at least one, the preferred one first.
        settings: the pauses, and when a block is old.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        settings: ChainSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoints = list(endpoints)
        self._settings = settings
        self._clock = clock
        self._serving: Endpoint | None = None
        self._block = -1
        self._advanced_at = float("-inf")

    async def snapshot(self) -> ChainSnapshot:
        """See `ChainPort.snapshot`."""
        return await self._first_answer(self._read)

    async def block_time(self) -> float | None:
        """See `ChainPort.block_time`."""
        return await self._first_answer(lambda endpoint: endpoint.chain.block_time())

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        """See `ChainPort.serve`."""
        await self._first_answer(lambda endpoint: endpoint.chain.serve(hotkey, ip, port))

    async def close(self) -> None:
        """Let go of all endpoints."""
        for endpoint in self._endpoints:
            await endpoint.chain.close()

    async def _first_answer(self, ask: Callable[[Endpoint], Awaitable[Answer]]) -> Answer:
        errors: list[ChainUnavailable] = []
        for endpoint in self._in_order():
            try:
                answer = await ask(endpoint)
            except ChainUnavailable as error:
                errors.append(error)
                self._failed(endpoint, error)
                # A new connection, and its process, are worth their time after a failure.
                await endpoint.chain.close()
            else:
                await self._answered(endpoint)
                return answer
        if len(errors) == 1:
            raise errors[0]
        kind = ChainStuck if all(isinstance(error, ChainStuck) for error in errors) else ChainUnavailable
        raise kind(f"none of {len(errors)} endpoints can be used: {'; '.join(map(str, errors))}")

    def _in_order(self) -> list[Endpoint]:
        now = self._clock()
        ready = [endpoint for endpoint in self._endpoints if endpoint.retry_at <= now]
        waiting = [endpoint for endpoint in self._endpoints if endpoint.retry_at > now]
        return [*ready, *sorted(waiting, key=lambda endpoint: endpoint.retry_at)]

    async def _read(self, endpoint: Endpoint) -> ChainSnapshot:
        snapshot = checked(await endpoint.chain.snapshot())
        now = self._clock()
        if snapshot.block > self._block:
            self._block, self._advanced_at = snapshot.block, now
        elif now - self._advanced_at > self._settings.stuck_s:
            raise ChainStuck(
                f"chain endpoint {endpoint.name}: it is at block {snapshot.block}, and block {self._block} was known "
                f"{now - self._advanced_at:.0f} s ago; the node is stuck or behind, or the chain stands still: try "
                "another endpoint"
            )
        return snapshot

    def _failed(self, endpoint: Endpoint, error: ChainUnavailable) -> None:
        endpoint.failures += 1
        pause_s = self._settings.endpoint_retry_s * min(2 ** min(endpoint.failures - 1, 20), MOST_DOUBLED)
        endpoint.retry_at = self._clock() + pause_s
        told = log.warning if endpoint.failures == 1 else log.debug
        told(
            "chain_endpoint_failed",
            endpoint=endpoint.name,
            reason=str(error),
            stuck=isinstance(error, ChainStuck),
            failures=endpoint.failures,
            preferred_again_in_s=round(pause_s),
        )

    async def _answered(self, endpoint: Endpoint) -> None:
        before, self._serving = self._serving, endpoint
        failures, endpoint.failures, endpoint.retry_at = endpoint.failures, 0, float("-inf")
        if before is not endpoint or failures:
            log.info(
                "chain_endpoint_serves",
                endpoint=endpoint.name,
                before=None if before is None else before.name,
                preferred=endpoint is self._endpoints[0],
                failures=failures,
            )
        if before is not None and before is not endpoint:
            await before.chain.close()

"""Watching the chain: who may ask now, whether we are registered still, and how old that knowledge is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from miner.chain.port import ChainPort, ChainSnapshot
from miner.chain.settings import ChainSettings
from miner.errors import ChainError, ChainUnavailable

log = structlog.get_logger(__name__)

# After a failure the chain is asked again this soon, then after twice the time, up to the time between two readings.
FIRST_RETRY_S = 15.0
# From so many failures on, it is an error; and after the time of so many readings what is known is stale.
STALE_AFTER = 3


class ChainWatch:
    """Reads the metagraph again and again, and says what changed for us.

    A reading that fails, or that has no neurons, changes nobody's access: who asked before may ask still. A hotkey that
    was gone and is back is announced again, because the chain forgets the address of what it deregisters.

    Args:
        chain: the chain.
        settings: when to read, and when to give up.
        hotkeys: ours, ss58 addresses.
        first: what was read at the start.
        update: takes what was read.
        announce: publishes where one of our hotkeys is served.
        now: seconds since 1970.
    """

    def __init__(
        self,
        chain: ChainPort,
        settings: ChainSettings,
        hotkeys: Sequence[str],
        *,
        first: ChainSnapshot,
        update: Callable[[ChainSnapshot], object],
        announce: Callable[[str], Awaitable[None]],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._chain = chain
        self._settings = settings
        self._latest = first
        self._update = update
        self._announce = announce
        self._now = now
        self._failures = self._failed_ever = 0
        self._registered = {hotkey: hotkey in first.neurons for hotkey in hotkeys}
        # Whether validators can find them.
        self._announced = dict(self._registered)

    def status(self) -> dict[str, Any]:
        """What is known of the subnet, how old it is in seconds, and the failures since then and of all time.

        It is fresh for the time of three readings.
        """
        return {
            "block": self._latest.block,
            "neurons": len(self._latest.neurons),
            "fetched_at": self._latest.fetched_at,
            "age_s": round(self._age_s(), 1),
            "fresh": self._age_s() <= STALE_AFTER * self._settings.refresh_s + self._settings.deadline_s,
            "failures": self._failures,
            "failures_total": self._failed_ever,
            "registered": dict(self._registered),
        }

    def _age_s(self) -> float:
        return self._now() - self._latest.fetched_at

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            ChainUnavailable: what is known of the subnet has become too old.
        """
        while True:
            await asyncio.sleep(self._pause_s())
            await self.look()

    async def look(self) -> None:
        """Read the metagraph once.

        Raises:
            ChainUnavailable: it failed, and what is known of the subnet has become too old.
        """
        try:
            snapshot = await self._chain.snapshot()
            if not snapshot.neurons:
                raise ChainUnavailable(f"the metagraph has no neurons at block {snapshot.block}")
        except ChainError as error:
            self._failed(error)
            return
        self._failures, self._latest = 0, snapshot
        self._update(snapshot)
        log.info("metagraph_refreshed", block=snapshot.block, neurons=len(snapshot.neurons))
        for hotkey in self._registered:
            await self._look_after(hotkey, snapshot)

    def _pause_s(self) -> float:
        usual = self._settings.refresh_s
        return usual if not self._failures else min(usual, FIRST_RETRY_S * 2 ** min(self._failures - 1, 20))

    def _failed(self, error: ChainError) -> None:
        self._failures += 1
        self._failed_ever += 1
        age_s = self._age_s()
        told = log.error if self._failures >= STALE_AFTER else log.warning
        told("metagraph_stale", failures=self._failures, age_s=round(age_s), reason=str(error))
        if age_s > self._settings.give_up_s:
            raise ChainUnavailable(
                f"the chain has not been read for {age_s / 3600:.1f} hours, more than chain.give_up_s = "
                f"{self._settings.give_up_s:g} s: {error}"
            ) from error

    async def _look_after(self, hotkey: str, snapshot: ChainSnapshot) -> None:
        before, here = self._registered[hotkey], hotkey in snapshot.neurons
        self._registered[hotkey] = here
        if not here:
            self._announced[hotkey] = False
            # Every time: it earns nothing until somebody acts.
            log.error(
                "not_registered",
                hotkey=hotkey,
                block=snapshot.block,
                consequence="validators do not ask this hotkey; register it again, and it is announced by itself",
            )
            return
        if not before:
            log.warning("registered_again", hotkey=hotkey, uid=snapshot.neurons[hotkey].uid, block=snapshot.block)
        if self._announced[hotkey]:
            return
        try:
            await self._announce(hotkey)
        except ChainError as error:
            log.error("not_announced", hotkey=hotkey, reason=str(error), consequence="it is tried again")
            return
        self._announced[hotkey] = True

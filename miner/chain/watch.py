"""Watching the chain: who may ask now, whether we are registered and found, and how old that knowledge is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from miner.chain.announcement import Announcement
from miner.chain.conditions import Conditions, incentive_of
from miner.chain.port import AxonAddress, ChainPort, ChainSnapshot, checked
from miner.chain.settings import ChainSettings
from miner.errors import ChainError, ChainStuck, ChainUnavailable

log = structlog.get_logger(__name__)

# After a failure the chain is asked again this soon, then after twice the time, up to the time between two readings.
FIRST_RETRY_S = 15.0
# From so many failures on, it is an error; and after the time of so many readings what is known is stale.
STALE_AFTER = 3


class ChainWatch:
    """Reads the metagraph again and again, says what changed for us, and keeps our addresses on the chain.

    A reading that fails, or that has no neurons, changes nobody's access: who asked before may ask still.

    Args:
        chain: the chain.
        settings: when to read, and when to give up.
        addresses: where each of our hotkeys (ss58 addresses) is to be found; None if the miner does not publish it.
        first: what was read at the start.
        update: takes what was read, and returns how many of the neurons may ask us.
        first_at: when that was by the clock; None for a moment ago.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        chain: ChainPort,
        settings: ChainSettings,
        addresses: Mapping[str, AxonAddress | None],
        *,
        first: ChainSnapshot,
        update: Callable[[ChainSnapshot], int],
        first_at: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain = chain
        self._settings = settings
        self._latest = first
        self._update = update
        self._clock = clock
        # Not by the time of the snapshot: a wall clock may be set right after the start.
        self._read_at = clock() if first_at is None else first_at
        self._failures = self._failed_ever = 0
        self._stuck = False
        self._registered = dict.fromkeys(addresses, True)
        self._conditions = Conditions(addresses)
        self._announcements = {
            hotkey: Announcement(chain, hotkey, address, clock=clock)
            for hotkey, address in addresses.items()
            if address is not None
        }

    def status(self) -> dict[str, Any]:
        """What is known of the subnet, how old it is in seconds, and from which endpoint it came.

        It is fresh for the time of three readings.
        """
        return {
            "endpoint": self._latest.endpoint,
            "block": self._latest.block,
            "neurons": len(self._latest.neurons),
            "fetched_at": self._latest.fetched_at,
            "age_s": round(self._age_s(), 1),
            "fresh": self._age_s() <= STALE_AFTER * self._settings.refresh_s + self._settings.deadline_s,
            "failures": self._failures,
            "failures_total": self._failed_ever,
            "stuck": self._stuck,
            "registered": dict(self._registered),
            "addresses": {hotkey: announcement.state for hotkey, announcement in self._announcements.items()},
            "conditions": self._conditions.names,
            **self._earned(),
        }

    def _earned(self) -> dict[str, Any]:
        """How the emission is spread, None if nobody has any; and what of it each of our hotkeys has."""
        spread = incentive_of(self._latest.neurons)
        ours = {hotkey: self._latest.neurons.get(hotkey) for hotkey in self._registered}
        return {
            "emission": None if spread is None else spread._asdict() | {"burned": spread.burned},
            "incentive": {hotkey: None if neuron is None else neuron.incentive for hotkey, neuron in ours.items()},
            "uids": {hotkey: None if neuron is None else neuron.uid for hotkey, neuron in ours.items()},
        }

    def _age_s(self) -> float:
        return self._clock() - self._read_at

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            ChainUnavailable: what is known of the subnet has become too old.
        """
        self._take(self._latest)
        next_reading = self._read_at + self._pause_s()
        while True:
            await self.publish()
            waits = [announcement.wait_s() for announcement in self._announcements.values()]
            await asyncio.sleep(max(0.0, min([next_reading - self._clock(), *waits])))
            if self._clock() >= next_reading:
                await self.look()
                next_reading = self._clock() + self._pause_s()

    async def publish(self) -> None:
        """Publish the addresses that are due."""
        for announcement in self._announcements.values():
            if announcement.wait_s() <= 0:
                await announcement.publish()

    async def look(self) -> None:
        """Read the metagraph once.

        Raises:
            ChainUnavailable: it failed, and what is known of the subnet has become too old.
        """
        try:
            snapshot = checked(await self._chain.snapshot())
        except ChainError as error:
            self._failed(error)
            return
        if self._failures:
            log.info("metagraph_recovered", failures=self._failures, age_s=round(self._age_s()))
        self._failures, self._stuck = 0, False
        self._latest, self._read_at = snapshot, self._clock()
        log.info("metagraph_refreshed", block=snapshot.block, neurons=len(snapshot.neurons), endpoint=snapshot.endpoint)
        self._take(snapshot)

    def reconsider(self) -> None:
        """Look again at what was read last, because the rules of who may ask have changed."""
        self._conditions.compare(self._latest.neurons, self._update(self._latest))

    def _take(self, snapshot: ChainSnapshot) -> None:
        admitted = self._update(snapshot)
        self._conditions.compare(snapshot.neurons, admitted)
        for hotkey in self._registered:
            self._compare(hotkey, snapshot)
        for hotkey, announcement in self._announcements.items():
            announcement.compare(snapshot.neurons.get(hotkey))

    def _pause_s(self) -> float:
        usual = self._settings.refresh_s
        return usual if not self._failures else min(usual, FIRST_RETRY_S * 2 ** min(self._failures - 1, 20))

    def _failed(self, error: ChainError) -> None:
        self._failures += 1
        self._failed_ever += 1
        self._stuck = isinstance(error, ChainStuck)
        age_s = self._age_s()
        told = log.error if self._failures >= STALE_AFTER else log.warning
        told("metagraph_stale", failures=self._failures, age_s=round(age_s), stuck=self._stuck, reason=str(error))
        if age_s > self._settings.give_up_s:
            raise ChainUnavailable(
                f"the chain has not been read for {age_s / 3600:.1f} hours, more than chain.give_up_s = "
                f"{self._settings.give_up_s:g} s: {error}"
            ) from error

    def _compare(self, hotkey: str, snapshot: ChainSnapshot) -> None:
        before, here = self._registered[hotkey], hotkey in snapshot.neurons
        self._registered[hotkey] = here
        if not here:
            # Every time: it earns nothing until somebody acts.
            log.error(
                "not_registered",
                hotkey=hotkey,
                block=snapshot.block,
                consequence="validators do not ask this hotkey; register it again, and it is announced by itself",
            )
        elif not before:
            log.warning("registered_again", hotkey=hotkey, uid=snapshot.neurons[hotkey].uid, block=snapshot.block)

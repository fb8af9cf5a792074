"""What the chain says of where one hotkey is found, kept to what it should say."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import structlog

from miner.chain.port import AxonAddress, ChainPort, Neuron
from miner.chain.settings import AUTO
from miner.errors import ChainError

log = structlog.get_logger(__name__)

# After a failure it is tried again this soon, then after twice the time, up to an hour.
FIRST_RETRY_S, LONGEST_RETRY_S = 30.0, 3600.0
# A reading that is older than a publication, or from a node that lags, may still show what was there before.
SETTLED_S = 600.0

State = Literal["published", "pending", "not_registered"]


class Announcement:
    """Publishes the address of one hotkey when a reading of the chain shows another one, and tries until it succeeds.

    Nothing is sent while the chain shows the right address. The chain accepts one publication in about ten minutes,
    forgets the address of a hotkey that it deregisters, and may say no at any time: none of it ends the miner.

    Args:
        chain: the chain.
        hotkey: its ss58 address.
        address: where validators are to find it.
        clock: monotonic time in seconds.

    Attributes:
        state: whether the chain has it, as far as is known.
    """

    def __init__(
        self,
        chain: ChainPort,
        hotkey: str,
        address: AxonAddress,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state: State = "pending"
        self._chain = chain
        self._hotkey = hotkey
        self._address = address
        self._clock = clock
        self._tries = 0
        self._published = False
        self._again_at = clock()

    def wait_s(self) -> float:
        """Until `publish` should be called, in seconds; infinite if there is nothing to do."""
        return max(0.0, self._again_at - self._clock()) if self.state == "pending" else float("inf")

    def compare(self, neuron: Neuron | None) -> None:
        """Take a new reading.

        Args:
            neuron: our entry, None if there is none.
        """
        if neuron is None:
            self.state = "not_registered"
            self._tries, self._again_at = 0, self._clock()
        elif self._is_ours(neuron.axon):
            if self._tries or self.state != "published":
                log.info("address_confirmed", hotkey=self._hotkey, address=str(self._address), uid=neuron.uid)
            self.state, self._tries = "published", 0
        elif self.state != "pending" and self._clock() >= self._again_at:
            self.state = "pending"
            log.warning(
                "address_not_on_chain",
                hotkey=self._hotkey,
                uid=neuron.uid,
                found=None if neuron.axon is None else str(neuron.axon),
                wanted=str(self._address),
                consequence="validators do not find this miner; the address is published",
            )

    def _is_ours(self, found: AxonAddress | None) -> bool:
        if self._address.ip != AUTO:
            return found == self._address
        # Which address that is, the publication finds out; it sends nothing if the chain has it.
        return self._published and found is not None and found.port == self._address.port

    async def publish(self) -> None:
        """Publish once; a failure is told, and when it is tried again."""
        self._tries += 1
        pause_s = min(FIRST_RETRY_S * 2 ** min(self._tries - 1, 20), LONGEST_RETRY_S)
        try:
            await self._chain.serve(self._hotkey, *self._address)
        except ChainError as error:
            self._again_at = self._clock() + pause_s
            log.error(
                "not_announced",
                hotkey=self._hotkey,
                address=str(self._address),
                reason=str(error),
                tries=self._tries,
                consequence=f"validators may not find this miner; it is tried again in {pause_s:.0f} s",
            )
            return
        self.state, self._published = "published", True
        self._again_at = self._clock() + max(pause_s, SETTLED_S)
        log.info("announced", hotkey=self._hotkey, address=str(self._address), tries=self._tries)

"""What the miner needs from the chain, as a port."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from miner.errors import ChainUnavailable, NotRegistered


class AxonAddress(NamedTuple):
    """Where an axon can be reached.

    Attributes:
        ip: IPv4 or IPv6.
        port: TCP port.
    """

    ip: str
    port: int

    def __str__(self) -> str:
        """As in a URL."""
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class Neuron(BaseModel):
    """One registered hotkey of the subnet.

    Attributes:
        uid: its place on the subnet.
        validator_permit: whether it may validate.
        stake: total stake, in TAO.
        incentive: share of the miners' emission in [0, 1], if known.
        last_update: block in which it last set weights, if known.
        axon: where it is found, if it has published that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uid: int = Field(ge=0)
    validator_permit: bool = False
    stake: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    incentive: float | None = Field(default=None, ge=0, le=1)
    last_update: int | None = Field(default=None, ge=0)
    axon: AxonAddress | None = None


@dataclass(frozen=True)
class ChainSnapshot:
    """The subnet at one block.

    Attributes:
        block: the block.
        neurons: registered hotkeys (ss58 addresses) and what is known of them; cannot be changed.
        fetched_at: when it was read, seconds since 1970.
        endpoint: name of the endpoint that it was read from.
    """

    block: int
    neurons: Mapping[str, Neuron]
    fetched_at: float
    endpoint: str = ""

    def __post_init__(self) -> None:
        """Keep a private, read-only copy of the neurons."""
        object.__setattr__(self, "neurons", MappingProxyType(dict(self.neurons)))

    def neuron(self, hotkey: str) -> Neuron:
        """Our own entry.

        Raises:
            NotRegistered: the hotkey has none.
        """
        try:
            return self.neurons[hotkey]
        except KeyError:
            where = f"not among the {len(self.neurons)} neurons of the subnet at block {self.block}"
            raise NotRegistered(f"hotkey {hotkey} is {where}; register it, or check the wallet and netuid") from None


def checked(snapshot: ChainSnapshot) -> ChainSnapshot:
    """A snapshot that may take the place of what is known.

    Raises:
        ChainUnavailable: it has no neurons.
    """
    if not snapshot.neurons:
        raise ChainUnavailable(f"{snapshot.endpoint}: the metagraph has no neurons at block {snapshot.block}")
    return snapshot


class ChainPort(Protocol):
    """The chain as the miner sees it; every call ends within a deadline of the adapter's own."""

    async def snapshot(self) -> ChainSnapshot:
        """Read the subnet.

        Raises:
            ChainUnavailable: no usable answer in time.
        """

    async def block_time(self) -> float | None:
        """When the newest block was made, seconds since 1970; None for a chain without a clock.

        Raises:
            ChainUnavailable: no usable answer in time.
        """

    async def serve(self, hotkey: str, ip: str, port: int) -> None:
        """Publish where the axon of one of our hotkeys can be reached.

        Args:
            hotkey: ss58 address.
            ip: the public address, IPv4 or IPv6; `auto` for the one that the internet sees.
            port: the public port.

        Raises:
            ChainUnavailable: no usable answer in time.
            NotRegistered: the hotkey has no UID on the subnet.
            ServeRefused: the chain said no.
            AddressUnknown: the address is `auto`, and nobody says which one that is.
        """

    async def close(self) -> None:
        """Let go of connections and processes; may be called twice."""

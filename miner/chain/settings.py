"""Settings of the wallet and the chain."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stage1.settings import Section, UserPath


def _an_address(text: str) -> str:
    try:
        address = ip_address(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 or IPv6 address; the chain takes no host names") from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text!r} is the address of no machine; validators pass over a miner with it")
    return str(address)


class WalletSettings(Section):
    """The miner's key.

    Attributes:
        name: name of the wallet.
        hotkey: name of the hotkey.
        path: directory of wallets.
    """

    name: str = "default"
    hotkey: str = "default"
    path: UserPath = Path("~/.bittensor/wallets")


class HotkeySettings(Section):
    """One of several hotkeys that this miner answers for, each at a port of its own.

    Attributes:
        hotkey: name of the hotkey.
        wallet: name of its wallet; default that of `[wallet]`.
        port: of its axon; default `axon.port` for the first of the list, one more for each that follows.
        external_port: port that validators reach; default the axon's own.
    """

    hotkey: str = Field(min_length=1)
    wallet: str | None = None
    port: int | None = Field(default=None, ge=0, le=65535)
    external_port: int | None = Field(default=None, ge=1, le=65535)


def _by_name(value: object) -> object:
    return {"hotkey": value} if isinstance(value, str) else value


# In a list of hotkeys a name alone will do.
HotkeyEntry = Annotated[HotkeySettings, BeforeValidator(_by_name)]


class ChainSettings(Section):
    """Where the metagraph comes from.

    Attributes:
        kind: `bittensor` reads the chain, `offline` reads a file.
        netuid: 72 on finney, 323 on the test network.
        network: name of the network.
        endpoint: WebSocket URL, instead of the network's own.
        deadline_s: longest wait for one chain call.
        refresh_s: time between two readings of the metagraph.
        give_up_s: the miner ends, with an error, once what it knows of the subnet is so old.
        snapshot: the file of the offline chain.
        publish_endpoint: announce the axon's address on the chain.
        external_ip: address that validators reach; announced, so needed with `publish_endpoint`.
        external_port: port that validators reach; default the axon's own.
    """

    kind: Literal["bittensor", "offline"] = "bittensor"
    netuid: int = Field(default=72, ge=0)
    network: str = "finney"
    endpoint: str | None = None
    deadline_s: float = Field(default=60.0, gt=0)
    refresh_s: float = Field(default=600.0, gt=0)
    give_up_s: float = Field(default=86_400.0, gt=0)
    snapshot: UserPath | None = None
    publish_endpoint: bool = True
    external_ip: Annotated[str, AfterValidator(_an_address)] | None = None
    external_port: int | None = Field(default=None, ge=1, le=65535)

    @model_validator(mode="after")
    def _offline_needs_a_file(self) -> Self:
        if self.kind == "offline" and self.snapshot is None:
            raise ValueError("kind is offline, so snapshot must name a file")
        return self

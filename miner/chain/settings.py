"""Settings of the wallet and the chain."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from stage1.settings import Section, UserPath

# Instead of an address: the one that the internet sees, as the SDK finds it.
AUTO = "auto"


def _an_address(text: str) -> str:
    if text == AUTO:
        return text
    try:
        address = ip_address(text.strip())
    except ValueError:
        told = f"{text!r} is no IPv4 or IPv6 address, and not {AUTO!r}; the chain takes no host names"
        raise ValueError(told) from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError(f"{text!r} is the address of no machine; validators pass over a miner with it")
    return str(address)


def _an_endpoint(text: str) -> str:
    named = text.strip()
    try:
        parts = urlsplit(named)
        usable = (parts.scheme in {"ws", "wss"} and parts.hostname and parts.port != 0) if "://" in named else named
    except ValueError:
        usable = False
    if not usable or any(character.isspace() for character in named):
        told = f"an endpoint at {endpoint_name(named)}" if "://" in named else f"{text!r}"
        raise ValueError(f"{told} is neither a WebSocket URL (ws:// or wss://) nor the name of a network")
    return named


def endpoint_name(endpoint: str) -> str:
    """What may be logged of an endpoint: a URL without what follows its host and port, where providers put their keys.

    Args:
        endpoint: a WebSocket URL or the name of a network.
    """
    scheme, separator, rest = endpoint.partition("://")
    host = rest.partition("?")[0].partition("#")[0].partition("/")[0].rpartition("@")[2]
    return f"{scheme}{separator}{host}" if separator else endpoint


EndpointText = Annotated[str, AfterValidator(_an_endpoint)]


class WalletSettings(Section):
    """The miner's key.

    Attributes:
        name: name of the wallet.
        hotkey: name of the hotkey; the private coldkey is never read.
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
HotkeyEntry = Annotated[HotkeySettings, BeforeValidator(_by_name, json_schema_input_type=str | HotkeySettings)]


class ChainSettings(Section):
    """Where the metagraph comes from.

    Attributes:
        kind: `bittensor` reads the chain, `offline` reads the file `snapshot` instead.
        netuid: 72 on finney, 323 on the test network.
        network: name of the network, or a WebSocket URL.
        endpoint: WebSocket URL, instead of the network's own.
        endpoints: several, instead of `network` and `endpoint`: URLs or names of networks, the preferred one first.
        endpoint_retry_s: an endpoint that failed is tried again after so long while another one serves; the
            pause doubles with each failure, up to 16 times.
        deadline_s: longest wait for one answer of one endpoint.
        refresh_s: time between two readings of the metagraph; sooner after one that failed.
        stuck_s: an endpoint whose block has not advanced for so long is taken for one that failed.
        give_up_s: the miner ends, with an error, once what it knows of the subnet is so old.
        worker_growth_mib: the process that reads the chain is replaced once it has grown by so much, in MiB.
        worker_calls: the process that reads the chain is replaced after so many calls.
        snapshot: the file of the offline chain.
        publish_endpoint: announce the axon's address on the chain.
        external_ip: address that validators reach; announced, so needed with `publish_endpoint`. `auto` has the SDK ask
            services on the internet for it, which then know of this machine.
        external_port: port that validators reach; default the axon's own.
    """

    kind: Literal["bittensor", "offline"] = "bittensor"
    netuid: int = Field(default=72, ge=0)
    network: EndpointText = "finney"
    endpoint: EndpointText | None = None
    endpoints: tuple[EndpointText, ...] = ()
    endpoint_retry_s: float = Field(default=900.0, gt=0)
    deadline_s: float = Field(default=60.0, gt=0)
    refresh_s: float = Field(default=600.0, gt=0)
    stuck_s: float = Field(default=300.0, gt=0)
    give_up_s: float = Field(default=86_400.0, gt=0)
    worker_growth_mib: float = Field(default=150.0, gt=0)
    worker_calls: int = Field(default=1000, ge=1)
    snapshot: UserPath | None = None
    publish_endpoint: bool = True
    external_ip: Annotated[str, AfterValidator(_an_address)] | None = None
    external_port: int | None = Field(default=None, ge=1, le=65535)

    @property
    def asked(self) -> tuple[str, ...]:
        """The endpoints that are asked, the preferred one first; at least one."""
        return self.endpoints or (self.endpoint or self.network,)

    @model_validator(mode="after")
    def _endpoints_are_said_once(self) -> Self:
        fields = type(self).model_fields
        given = [name for name in ("network", "endpoint", "endpoints") if getattr(self, name) != fields[name].default]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given, and each says which chain is read: give one of them")
        if len(set(self.endpoints)) != len(self.endpoints):
            raise ValueError("endpoints names one of them twice")
        return self

    @model_validator(mode="after")
    def _offline_needs_a_file(self) -> Self:
        if self.kind == "offline" and self.snapshot is None:
            raise ValueError("kind is offline, so snapshot must name a file")
        return self

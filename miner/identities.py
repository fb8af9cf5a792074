"""The hotkeys of this miner: each with an axon of its own, all with one cascade behind them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from engines.machine.tally import Tally
from miner.answering.deadline import TimeBudget
from miner.answering.request import Answer
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp, Reply
from miner.axon.places import Capacity
from miner.axon.server import AxonServer
from miner.axon.wires.open_wire import open_wire
from miner.chain.port import ChainSnapshot
from miner.chain.settings import WalletSettings
from miner.chain.wallet import load_hotkey
from miner.errors import WalletError
from miner.settings import MinerSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Identity:
    """One hotkey of this miner, and the axon that answers for it.

    Attributes:
        address: ss58 address of the hotkey.
        access: who may ask it.
        app: answers its requests.
        server: where it listens.
        external_port: port that validators reach, None for the server's own.
    """

    address: str
    access: AccessPolicy
    app: AxonApp
    server: AxonServer
    external_port: int | None = None

    def change(self, settings: MinerSettings) -> None:
        """Answer by other rules of access and within other limits, from the next request on."""
        self.access.change(settings.access)
        self.app.limit(settings.requests, time_budget(settings))


class ReplyCounts:
    """How many replies there were, of each of our hotkeys.

    Args:
        also: told of each as well: our hotkey, HTTP status, seconds.

    Attributes:
        replies: by our hotkey and HTTP status.
        auth_modes: of proved requests, by the way in which they were.
    """

    def __init__(self, also: Callable[[str, int, float], None] | None) -> None:
        self.replies: Counter[tuple[str, int]] = Counter()
        self.auth_modes: Counter[str] = Counter()
        self._also = also

    def add(self, address: str, reply: Reply) -> None:
        """Count one."""
        self.replies[address, reply.status] += 1
        if reply.auth_mode:
            self.auth_modes[reply.auth_mode] += 1
        if self._also is not None:
            self._also(address, reply.status, reply.seconds)


def wallets(settings: MinerSettings) -> dict[str, WalletSettings]:
    """The wallets of the hotkeys that the settings name, by ss58 address, in their order.

    Raises:
        WalletError: a key cannot be read, or is named twice.
    """
    found: dict[str, WalletSettings] = {}
    for served in settings.served:
        address = load_hotkey(served.wallet).ss58_address
        if address in found:
            raise WalletError(f"hotkeys: two of the names lead to the same key, {address}; each needs its own")
        found[address] = served.wallet
    return found


def identities(
    settings: MinerSettings,
    addresses: Sequence[str],
    snapshot: ChainSnapshot,
    *,
    answer: Answer,
    on_reply: Callable[[str, Reply], None],
    tally: Tally,
) -> list[Identity]:
    """An identity for each hotkey; together they hold what one would.

    Args:
        settings: all settings.
        addresses: of the hotkeys, in the order of `MinerSettings.served`.
        snapshot: the subnet.
        answer: the cascade.
        on_reply: called after every reply, with the hotkey that was asked.
        tally: counts what is refused.

    Raises:
        SettingsError: the wire cannot be opened.
    """
    capacity, made = Capacity(settings.requests.max_in_flight), []
    age_s = partial(_age_s, time.monotonic())
    if settings.wire.allow_unbound_receiver:
        log.warning("unbound_receiver_allowed", consequence="a request may have been sent to another miner before")
    for served, address in zip(settings.served, addresses, strict=True):
        access = AccessPolicy(settings.access, snapshot.neurons)
        log.info("access", hotkey=address, admitted=access.admitted)
        app = AxonApp(
            answer,
            routes=open_wire(address, settings.wire, age_s=age_s),
            access=access,
            settings=settings.requests,
            budget=time_budget(settings),
            on_reply=partial(on_reply, address),
            tally=tally,
            receiver=address,
            capacity=capacity,
        )
        server = AxonServer(app, served.axon, name=_name(settings, address), tally=tally, share=1 / len(addresses))
        made.append(Identity(address, access, app, server, served.external_port))
    return made


def time_budget(settings: MinerSettings) -> TimeBudget:
    """How the seconds of a request are spent."""
    return TimeBudget(settings.requests.deadline_s, settings.requests.margin_s, settings.stage2.reserve_s)


def _name(settings: MinerSettings, address: str) -> str:
    return f"axon of {address[:8]}" if settings.hotkeys else "axon"


def _age_s(since: float) -> float:
    return time.monotonic() - since

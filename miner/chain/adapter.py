"""The chain adapter that the settings name, and the first reading of the chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from miner.chain.bittensor import BittensorChain
from miner.chain.failover import Endpoint, FailoverChain
from miner.chain.offline import OfflineChain
from miner.chain.port import ChainPort, ChainSnapshot
from miner.chain.settings import ChainSettings, WalletSettings
from miner.logs import LogSettings

log = structlog.get_logger(__name__)


def open_chain(
    settings: ChainSettings, ours: Mapping[str, WalletSettings] | None = None, *, logs: LogSettings
) -> ChainPort:
    """The chain adapter that the settings name.

    Args:
        settings: of the chain.
        ours: wallets of the hotkeys (ss58 addresses) whose addresses are published.
        logs: how the processes that speak with the chain log.

    Raises:
        ChainUnavailable: the offline chain's file cannot be read.
    """
    if settings.kind == "offline":
        assert settings.snapshot is not None
        return OfflineChain.from_file(settings.snapshot)
    opened = [BittensorChain(endpoint, settings, ours, logs=logs) for endpoint in settings.asked]
    return FailoverChain([Endpoint(one.name, one) for one in opened], settings)


async def first_snapshot(chain: ChainPort, addresses: Sequence[str]) -> ChainSnapshot:
    """Read the chain for the first time.

    Args:
        chain: the adapter.
        addresses: ss58 addresses of our hotkeys.

    Raises:
        ChainUnavailable: it cannot be read.
        NotRegistered: none of the hotkeys is registered. A miner goes on with those it has, and the watch tells of the
            others.
    """
    snapshot = await chain.snapshot()
    registered = [address for address in addresses if address in snapshot.neurons]
    uids = [snapshot.neuron(address).uid for address in registered or addresses]
    log.info("chain_read", block=snapshot.block, neurons=len(snapshot.neurons), uids=uids, endpoint=snapshot.endpoint)
    return snapshot

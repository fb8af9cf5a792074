"""What the chain says of a miner, and whether the clocks agree."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Wallet

from miner.axon.settings import WireSettings
from miner.chain.bittensor import BittensorChain
from miner.chain.port import AxonAddress, ChainSnapshot, Neuron
from miner.chain.settings import ChainSettings
from miner.cli.doctor.chain import Read, addresses, clock
from miner.cli.doctor.diagnosis import Finding
from miner.errors import ChainUnavailable
from miner.settings import load_settings
from tests.support.chain_replay import NETUID, ChainReplay

HERE = ChainSnapshot(1, {}, 0.0)


@pytest.mark.parametrize(
    ("age_s", "verdict", "says"),
    [
        (0.0, "ok", "as it should be"),
        (17.9, "ok", "as it should be"),
        (19.0, "warning", "fast by 1.0 s"),
        (120.0, "error", "fast by 102.0 s or more, or the node is behind"),
        (-1.0, "warning", "slow by 1.0 s"),
        (-3.0, "error", "slow by 3.0 s"),
    ],
)
def test_the_clock_is_held_against_the_newest_block(age_s: float, verdict: str, says: str) -> None:
    told = clock(Read(HERE, age_s), WireSettings())
    assert (told.verdict, says in told.detail) == (verdict, True), told.detail
    assert bool(told.todo) == (verdict != "ok")


def test_a_time_that_cannot_be_read_is_told() -> None:
    assert clock(Read(HERE, None, "no answer"), WireSettings()).verdict == "warning"
    assert clock(Read(HERE, None, "a chain in a file has no clock"), WireSettings()).verdict == "ok"


def test_the_time_of_a_block_comes_through_the_real_sdk() -> None:
    """`Timestamp.Now` is 64 bits of milliseconds, the lowest byte first."""
    made_ms = 1_760_000_000_500
    key = "0xf0c365c3cf59d671eb72da0e7a4113c49f1f0515f462cdcf84e0f1d6045dfcbb"
    told = {f"state_getStorageAt {key}": {"result": f"0x{made_ms.to_bytes(8, 'little').hex()}"}}
    replay = ChainReplay(extra=told)

    async def scenario() -> float | None:
        async with replay.listening() as endpoint:
            chain = BittensorChain(endpoint, ChainSettings(netuid=NETUID, deadline_s=180))
            try:
                made = await chain.block_time()
                # What is missing would be the beginning of 1970.
                replay.extra.clear()
                with pytest.raises(ChainUnavailable, match="does not tell the time"):
                    await chain.block_time()
                return made
            finally:
                await chain.close()

    assert asyncio.run(scenario()) == made_ms / 1000


def address_of(home: Path, new_wallet: Callable[[str], Wallet], known: AxonAddress | None, **changes: Any) -> Finding:
    hotkey = new_wallet("one").hotkey.ss58_address
    given = {"wallet.path": home, "wallet.name": "one", "chain.publish_endpoint": False, "axon.port": 8091}
    snapshot = ChainSnapshot(1, {hotkey: Neuron(uid=3, axon=known)}, 0.0)
    [told] = asyncio.run(addresses(load_settings(None, given | changes), snapshot))
    return told


NewWallet = Callable[[str], Wallet]


def test_an_address_that_nobody_published_is_an_error(tmp_path: Path, new_wallet: NewWallet) -> None:
    told = address_of(tmp_path, new_wallet, None)
    assert (told.verdict, "nobody finds it" in told.detail) == ("error", True)
    publishes = {"chain.publish_endpoint": True, "chain.external_ip": "203.0.113.7"}
    assert address_of(tmp_path, new_wallet, None, **publishes).verdict == "ok"


def test_another_port_than_the_chain_says_is_an_error_unless_it_is_published(
    tmp_path: Path, new_wallet: NewWallet
) -> None:
    known = AxonAddress("203.0.113.7", 9000)
    told = address_of(tmp_path, new_wallet, known)
    assert (told.verdict, "203.0.113.7:9000, and the axon is at port 8091" in told.detail) == ("error", True)
    publishes = {"chain.publish_endpoint": True, "chain.external_ip": "203.0.113.7"}
    told = address_of(tmp_path, new_wallet, known, **publishes)
    assert (told.verdict, "publishes 203.0.113.7:8091" in told.detail) == ("ok", True)


def test_what_answers_at_the_address_of_the_chain_is_told(tmp_path: Path, new_wallet: NewWallet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        told = address_of(tmp_path, new_wallet, AxonAddress("127.0.0.1", port), **{"axon.port": port})
        assert (told.verdict, f"--peer http://127.0.0.1:{port}" in told.detail) == ("ok", True)
    started = time.monotonic()
    told = address_of(tmp_path, new_wallet, AxonAddress("127.0.0.1", port), **{"axon.port": port})
    assert (told.verdict, f"--peer http://127.0.0.1:{port}" in told.todo) == ("warning", True)
    assert time.monotonic() - started < 60

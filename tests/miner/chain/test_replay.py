"""The real SDK in the real worker, over a websocket that answers from a recording and fails as nodes do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keypair, Wallet
from structlog.testing import capture_logs

from miner.chain.bittensor import BittensorChain
from miner.chain.conditions import incentive_of
from miner.chain.failover import Endpoint, FailoverChain
from miner.chain.settings import ChainSettings, WalletSettings
from miner.errors import ChainUnavailable, NotRegistered, ServeRefused
from tests.support.chain_replay import BLOCK, NETUID, NEURONS, ChainReplay

# A safety limit: a reading takes four seconds on a machine that is busy.
PATIENCE = ChainSettings(netuid=NETUID, deadline_s=180)
IMPATIENT = ChainSettings(netuid=NETUID, deadline_s=2)


@asynccontextmanager
async def chain_over(
    replay: ChainReplay, settings: ChainSettings = PATIENCE, wallets: dict[str, WalletSettings] | None = None
) -> AsyncIterator[BittensorChain]:
    async with replay.listening() as endpoint:
        chain = BittensorChain(endpoint, settings, wallets)
        try:
            yield chain
        finally:
            await chain.close()


def test_a_reading_survives_dropped_connections_and_delays() -> None:
    async def scenario() -> None:
        replay = ChainReplay()
        async with chain_over(replay) as chain:
            readings = [await chain.snapshot()]
            replay.drop_every = 4
            readings.append(await chain.snapshot())
            replay.drop_every, replay.delay_s = 0, 0.05
            readings.append(await chain.snapshot())
            assert chain._worker is not None
            assert chain._worker.answered == 3
        first, second, third = readings
        assert BLOCK < first.block < second.block < third.block
        assert first.neurons == second.neurons == third.neurons
        assert len(first.neurons) == NEURONS
        assert sum(neuron.validator_permit for neuron in first.neurons.values()) == 12
        assert sum(neuron.axon is not None for neuron in first.neurons.values()) > 100
        burned = incentive_of(first.neurons)
        assert burned is not None
        assert burned.burned

    asyncio.run(scenario())


def test_a_mute_endpoint_is_left_taken_back_when_it_answers_and_left_again_when_it_stands_still() -> None:
    async def scenario() -> None:
        now, replay, well = 0.0, ChainReplay(mute=True), ChainReplay()
        async with chain_over(replay, IMPATIENT) as preferred, chain_over(well) as other:
            both = [Endpoint(chain.name, chain) for chain in (preferred, other)]
            chain = FailoverChain(both, PATIENCE, clock=lambda: now)
            with capture_logs() as logs:
                assert (await chain.snapshot()).endpoint == other.name
            assert "gave no answer within 2 s" in logs[1]["reason"]
            assert preferred._worker is None
            replay.mute, replay.ahead, preferred._chain = False, 100, PATIENCE
            now += PATIENCE.endpoint_retry_s
            assert (await chain.snapshot()).endpoint == preferred.name
            assert other._worker is None
            replay.stuck, well.ahead = True, 200
            now += 2 * PATIENCE.stuck_s
            assert (await chain.snapshot()).endpoint == other.name

    asyncio.run(scenario())


REGISTERED: dict[str, dict[str, Any]] = {"state_getStorageAt": {"result": "0x0300"}}
# The neuron has published nothing, and the transaction is the hotkey's first.
SENT = REGISTERED | {
    "state_call NeuronInfoRuntimeApi_get_neuron ": {"result": "0x00"},
    "account_nextIndex": {"result": 0},
    "rpc_methods": {"result": {"methods": ["account_nextIndex"]}},
}
RATE_LIMIT = {"code": 1010, "message": "Invalid Transaction", "data": "Custom error: 12"}


class TestPublication:
    @pytest.fixture
    def wallet(self, tmp_path: Path) -> tuple[str, WalletSettings]:
        made = Wallet(name="miner", hotkey="one", path=str(tmp_path))
        coldkey, hotkey = (Keypair.create_from_mnemonic(Keypair.generate_mnemonic()) for _ in range(2))
        made.set_coldkeypub(coldkey, overwrite=True)
        made.set_hotkey(hotkey, encrypt=False, overwrite=True)
        return hotkey.ss58_address, WalletSettings(name="miner", hotkey="one", path=tmp_path)

    def publish(self, wallet: tuple[str, WalletSettings], replay: ChainReplay) -> None:
        hotkey, settings = wallet

        async def scenario() -> None:
            async with chain_over(replay, wallets={hotkey: settings}) as chain:
                await chain.serve(hotkey, "192.0.2.7", 8091)

        asyncio.run(scenario())

    def test_without_a_uid(self, wallet: tuple[str, WalletSettings]) -> None:
        with pytest.raises(NotRegistered, match=f"hotkey {wallet[0]} has no UID"):
            self.publish(wallet, ChainReplay(extra={"state_getStorageAt": {"result": None}}))

    def test_refused_by_the_chain(self, wallet: tuple[str, WalletSettings]) -> None:
        replay = ChainReplay(extra=SENT | {"author_submit": {"error": RATE_LIMIT}})
        with pytest.raises(
            ServeRefused, match=r"takes one address of a hotkey in about ten minutes .*Custom error: 12"
        ):
            self.publish(wallet, replay)
        assert any(question.startswith("author_submit") for question in replay.questions)

    def test_lost_on_the_way(self, wallet: tuple[str, WalletSettings]) -> None:
        with pytest.raises(ChainUnavailable):
            self.publish(wallet, ChainReplay(extra=REGISTERED, drop_every=1))

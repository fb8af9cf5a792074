"""The chain's worker process, with the real SDK in it and endpoints that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from miner.chain.bittensor import BittensorChain
from miner.chain.settings import ChainSettings
from miner.errors import ChainUnavailable
from tests.support.chain_replay import ChainReplay

PATIENCE_S = 120.0


def chain_at(endpoint: str, *, deadline_s: float, **settings) -> BittensorChain:
    return BittensorChain(endpoint, ChainSettings(deadline_s=deadline_s, **settings))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


def test_a_mute_endpoint_costs_the_deadline_and_its_worker():
    async def scenario():
        async with ChainReplay(mute=True).listening() as endpoint:
            chain = chain_at(endpoint, deadline_s=3.0)
            pids = []
            for _ in range(2):
                asked = asyncio.create_task(chain.snapshot())
                await until(lambda: chain._worker is not None)
                pids.append(chain._worker.pid)
                started = time.monotonic()
                with pytest.raises(ChainUnavailable) as error:
                    await asked
                seconds = time.monotonic() - started
            await chain.close()
            return endpoint, pids, seconds, str(error.value)

    endpoint, pids, seconds, message = asyncio.run(scenario())
    assert seconds < PATIENCE_S / 2
    assert pids[0] != pids[1]
    assert not any(alive(pid) for pid in pids)
    assert message.startswith(f"chain endpoint {endpoint}, netuid 72: snapshot gave no answer within 3 s; check")


def test_a_busy_worker_ends_when_its_input_is_closed():
    async def scenario():
        mute = ChainReplay(mute=True)
        async with mute.listening() as endpoint:
            chain = chain_at(endpoint, deadline_s=PATIENCE_S)
            asked = asyncio.create_task(chain.snapshot())
            await until(lambda: mute.questions)
            worker = chain._worker
            worker._calls.close()
            async with asyncio.timeout(PATIENCE_S / 2):
                status = await worker._process.wait()
            with pytest.raises(ChainUnavailable, match="the worker ended with status 0"):
                await asked
            await chain.close()
            return status

    assert asyncio.run(scenario()) == 0


def test_closing_does_not_wait_for_a_call():
    async def scenario():
        mute = ChainReplay(mute=True)
        async with mute.listening() as endpoint:
            chain = chain_at(endpoint, deadline_s=PATIENCE_S)
            asked = asyncio.create_task(chain.snapshot())
            await until(lambda: mute.questions)
            pid = chain._worker.pid
            started = time.monotonic()
            await chain.close()
            seconds = time.monotonic() - started
            with pytest.raises(ChainUnavailable):
                await asked
            await chain.close()
            return seconds, alive(pid)

    seconds, lives = asyncio.run(scenario())
    assert seconds < PATIENCE_S / 2
    assert not lives


def test_a_refused_connection_is_told_at_once_and_the_worker_stays():
    async def scenario():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            chain = chain_at(f"ws://127.0.0.1:{unused.getsockname()[1]}", deadline_s=PATIENCE_S)
            with pytest.raises(ChainUnavailable, match=r"snapshot failed: .*[Rr]efused"):
                await chain.snapshot()
            pid = chain._worker.pid
            started = time.monotonic()
            with pytest.raises(ChainUnavailable):
                await chain.snapshot()
            seconds = time.monotonic() - started
            same = chain._worker.pid == pid
            await chain.close()
            return seconds, same, alive(pid)

    seconds, same, lives = asyncio.run(scenario())
    assert seconds < PATIENCE_S / 2
    assert same
    assert not lives


def test_an_sdk_that_cannot_be_imported_is_told(tmp_path, monkeypatch):
    (tmp_path / "bittensor.py").write_text("raise ImportError('conflict')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def scenario():
        chain = chain_at("ws://127.0.0.1:9", deadline_s=PATIENCE_S)
        try:
            await chain.snapshot()
        finally:
            await chain.close()

    with pytest.raises(ChainUnavailable, match="the worker ended with status 1; its log says why"):
        asyncio.run(scenario())


def test_the_serving_process_never_imports_the_sdk():
    script = (
        "import json, sys, miner.chain.bittensor, miner.axon.server, miner.logs; print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=True)
    assert not {"bittensor", "torch", "fastapi", "websockets"} & set(json.loads(done.stdout))


SDK_SCRIPT = """
import inspect
from types import SimpleNamespace
import numpy as np
from miner.chain.worker import BittensorSdk, Publication, neurons_of

sdk = BittensorSdk("ws://127.0.0.1:9", 72)
import bittensor
from bittensor.core.extrinsics import serving
from bittensor.core.types import ExtrinsicResponse

failed = ExtrinsicResponse(False, "rate limit")
assert failed, "a failed response is true: only .success tells"
signature = inspect.signature(serving.serve_extrinsic)

def respond(response):
    def serve_extrinsic(**arguments):
        bound = signature.bind(**arguments).arguments
        assert (bound["ip"], bound["port"], bound["netuid"], bound["protocol"]) == ("192.0.2.7", 8091, 72, 4)
        return response
    serving.serve_extrinsic = serve_extrinsic
    return tuple(sdk.publish(Publication(hotkey="5Key", wallet=("w", "h", "p"), ip="192.0.2.7", port=8091)))

sdk._connected, sdk._opened = lambda: None, lambda wallet: None
assert respond(failed) == (False, "rate limit", False)
assert respond(ExtrinsicResponse(False, "gone", error=ConnectionResetError())) == (False, "gone", True)
assert respond(ExtrinsicResponse(True, None)) == (True, "no reason given", False)

metagraph = bittensor.Metagraph(netuid=72, network="ws://127.0.0.1:9", sync=False)
names = dict(uid=0, consensus=0, incentive=0.5, dividends=0, emission=0, active=1, last_update=7, validator_trust=0)
axon = SimpleNamespace(hotkey="5Key", ip="192.0.2.7", port=8091)
metagraph.neurons = [SimpleNamespace(**names, validator_permit=True, axon_info=axon)]
metagraph._set_metagraph_attributes(123)
metagraph.stake = np.array([2.5], dtype=np.float32)
assert metagraph.block.item() == 123
[(hotkey, neuron)] = neurons_of(metagraph).items()
facts = (neuron.uid, neuron.validator_permit, neuron.stake, neuron.incentive, neuron.last_update)
assert (hotkey, *facts) == ("5Key", 0, True, 2.5, 0.5, 7), (hotkey, neuron)
assert neuron.axon == ("192.0.2.7", 8091), neuron
assert callable(bittensor.Subtensor.metagraph) and callable(bittensor.Subtensor.get_uid_for_hotkey_on_subnet)
"""


def test_the_sdk_is_what_the_worker_takes_it_for():
    done = subprocess.run([sys.executable, "-c", SDK_SCRIPT], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr

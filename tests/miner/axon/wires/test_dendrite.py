"""The axon against its real peer: the dendrite of an installed bittensor, in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from pathlib import Path

import pytest

from miner.answering.request import Prediction, Request
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.routes import RouteTable
from miner.axon.server import AxonServer
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings
from miner.axon.wires import subnet72
from miner.chain.port import Neuron

PEER = Path(__file__).with_name("dendrite_peer.py")
OLD_SDK = os.environ.get("BITTENSOR9_PYTHON", "")

# What the test's miner does with an image depends on the image.
IMAGES = {
    "roadwork": b"1",
    "road": b"0",
    "damaged": b"?",
    "slow": b"slow",
    "defect": b"defect",
    "huge": b"h" * 2_000_000,
}


async def answer(request: Request) -> Prediction:
    content = base64.b64decode(request.image_b64)
    if content == b"slow":
        await asyncio.sleep(60)
    return Prediction({b"1": 0.9, b"0": 0.1, b"?": -1.0}[content])


@pytest.fixture
def images(tmp_path):
    for name, content in IMAGES.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.fixture(params=[sys.executable, pytest.param(OLD_SDK, marks=pytest.mark.interop)], ids=["pinned", "old"])
def python(request):
    """The interpreter whose bittensor asks."""
    if not request.param:
        pytest.skip("BITTENSOR9_PYTHON does not name an interpreter with bittensor 9.9")
    return request.param


@pytest.fixture
def ask(new_wallet, images, python):
    """Lets a dendrite ask a miner that knows the wallet `validator`; gives its records and the miner's outcomes."""

    async def run(names, *options, wallet="validator", **settings):
        miner, validator, _ = (new_wallet(name) for name in ("miner", "validator", "stranger"))
        outcomes = []
        hotkey = miner.hotkey.ss58_address
        known = {validator.hotkey.ss58_address: Neuron(uid=3, validator_permit=True, stake=5.0)}
        app = AxonApp(
            answer,
            routes=RouteTable(subnet72.routes(hotkey)),
            access=AccessPolicy(AccessSettings(), known),
            settings=RequestSettings(**settings),
            on_reply=outcomes.append,
        )
        server = AxonServer(app, AxonSettings(host="127.0.0.1", port=0))
        await server.start()
        try:
            peer = await asyncio.create_subprocess_exec(
                python,
                str(PEER),
                *("--port", str(server.port), "--axon-hotkey", hotkey, "--wallet-path", str(images)),
                *("--wallet-name", wallet, "--wallet-hotkey", "default"),
                *options,
                *(str(images / name) for name in names),
                stdout=asyncio.subprocess.PIPE,
            )
            async with asyncio.timeout(500):
                output, _ = await peer.communicate()
        finally:
            await server.stop(1)
        assert peer.returncode == 0
        records = [json.loads(line) for line in output.splitlines()]
        return {Path(record["image"]).name: record for record in records}, records, outcomes

    return lambda *arguments, **options: asyncio.run(run(*arguments, **options))


def test_every_outcome_reaches_the_validator(ask):
    told, _, outcomes = ask(list(IMAGES), deadline_s=1.5, margin_s=0.2, max_body_bytes=1_000_000)
    assert {name: (record["status_code"], record["prediction"]) for name, record in told.items()} == {
        "roadwork": (200, 0.9),
        "road": (200, 0.1),
        "damaged": (200, -1.0),
        "slow": (408, -1.0),
        "defect": (500, -1.0),
        "huge": (413, -1.0),
    }
    assert told["roadwork"]["status_message"] == "Success"
    assert "larger than 1000000 bytes" in told["huge"]["status_message"]
    assert "secret" not in told["defect"]["status_message"]
    assert sorted(outcome.status for outcome in outcomes) == [200, 200, 200, 408, 413, 500]


def test_a_stranger_is_refused(ask):
    told, _, [outcome] = ask(["roadwork"], wallet="stranger")
    assert told["roadwork"]["status_code"] == 403
    assert told["roadwork"]["status_message"].startswith("Forbidden. Key is blacklisted")
    assert outcome.caller is None


def test_concurrent_requests_of_one_dendrite_are_all_answered(ask):
    # They arrive in another order than they were signed in; the SDK's own axon refuses some of them.
    _, records, _ = ask(
        ["roadwork", "road"], "--repeat", "60", "--concurrency", "120", "--timeout", "400", deadline_s=400.0
    )
    assert len(records) == 120
    assert {(record["status_code"], record["prediction"]) for record in records} == {(200, 0.9), (200, 0.1)}

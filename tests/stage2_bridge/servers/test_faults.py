"""Each thing that a server can do wrong, behind the bridge: an outcome in time, and a breaker that opens."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.stage2_faults.servers import certificate
from benchmarks.stage2_servers.faults import FAULTS, Fault, broken
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome
from stage2_bridge.sample_image import black_image
from stage2_bridge.servers.open_server import servers_of
from stage2_bridge.settings import KserveServer, Stage2Settings
from tests.support.stage2_servers import Fake, classifier

# Time for an answer, of which a busy machine takes some, and for one attempt.
ANSWER_S, ATTEMPT_S = 8.0, 2.0


def tls_of(directory: Path) -> ssl.SSLContext:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(certificate(directory))
    except OSError:
        pytest.skip("there is no openssl")
    return tls


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name for fault in FAULTS])
def test_it_ends_in_time_with_an_outcome_and_the_server_is_left_alone(fault: Fault, tmp_path: Path) -> None:
    knows = classifier(lambda _: {"probability": np.asarray([0.5], np.float32)})

    async def run() -> tuple[Counter[Outcome], float, str]:
        async with broken(fault, knows).running(tls_of(tmp_path) if fault.tls else None) as fake:
            # Only what waits is cut short: on a busy machine a reply at once may take a tenth of a second too.
            attempt_s = ATTEMPT_S if Outcome.TIMEOUT in fault.outcomes else ANSWER_S
            one = KserveServer(name="one", url=fake.url, model="roadwork", version="1", timeout_s=attempt_s)
            servers = servers_of(Stage2Settings(servers=(one,)))
            bridge = Bridge(servers, max_in_flight=16, max_waiting=100, clock=time.monotonic)
            outcomes, slowest = Counter[Outcome](), 0.0
            # A server that refuses is asked about a good image only after twenty refusals.
            for _ in range(4 if fault.name == "refusal" else 2):
                began = time.monotonic()
                asked = (bridge.ask(black_image(), began + ANSWER_S) for _ in range(12))
                outcomes += Counter(one.outcome for one in await asyncio.gather(*asked))
                slowest = max(slowest, time.monotonic() - began)
            [status] = servers.servers
            await bridge.close()
            return outcomes, slowest, status.state

    outcomes, slowest, state = asyncio.run(run())
    assert {str(one) for one in outcomes} <= set(fault.outcomes)
    assert state == "open"
    assert slowest < ANSWER_S + 4.0


def test_a_sound_server_is_asked_all_the_while() -> None:
    async def run() -> tuple[Counter[Outcome], str]:
        knows = classifier(lambda _: {"probability": np.asarray([0.5], np.float32)})
        async with Fake(knows).running() as fake:
            one = KserveServer(name="one", url=fake.url, model="roadwork", version="1", timeout_s=30)
            servers = servers_of(Stage2Settings(servers=(one,)))
            bridge = Bridge(servers, max_in_flight=16, max_waiting=100, clock=time.monotonic)
            asked = (bridge.ask(black_image(), time.monotonic() + 60.0) for _ in range(48))
            outcomes = Counter(one.outcome for one in await asyncio.gather(*asked))
            [status] = servers.servers
            await bridge.close()
            return outcomes, status.state

    assert asyncio.run(run()) == (Counter({Outcome.ANSWERED: 48}), "closed")

"""Our axon in a process of its own; its handler does with an image what the image says.

Prints {ports} as a JSON line once it listens, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import math
import sys
from typing import Any

import numpy as np
import structlog

from benchmarks.interop.cases import PATIENT_S
from miner.answering.request import UNDECODABLE, Prediction, Request
from miner.axon.access import AccessPolicy
from miner.axon.app import AxonApp
from miner.axon.routes import RouteTable
from miner.axon.server import AxonServer
from miner.axon.settings import AccessSettings, AxonSettings, RequestSettings, WireSettings
from miner.axon.wires import subnet72
from miner.chain.port import Neuron
from stage1.errors import ImageError
from stage1.preprocess import PreprocessSettings, decode_base64, preprocess

ANSWER = 0.9
SPOKEN: dict[bytes, Any] = {
    b"unset": -1.0,
    b"nan": math.nan,
    b"inf": math.inf,
    b"float32": np.float32(0.9),
    b"text": "0.9",
    b"none": None,
    b"negative": -0.25,
}
SLOW_S, NAP_S = 60.0, 0.2
AT_ONCE = 16


class Handler:
    def __init__(self) -> None:
        self.napping = 0
        self.met = asyncio.Event()

    async def __call__(self, request: Request) -> Prediction:
        said = _said(request.image_b64)
        if said == b"raise":
            raise RuntimeError("the handler's secret")
        if said == b"slow":
            await asyncio.sleep(SLOW_S)
        if said == b"nap":
            await self._meet_the_others()
        if said in SPOKEN:
            return Prediction(SPOKEN[said])
        if said.startswith(b"big") or said == b"nap":
            return Prediction(ANSWER)
        settings = PreprocessSettings()
        try:
            preprocess(decode_base64(request.image_b64, settings), settings)
        except ImageError:
            return Prediction(UNDECODABLE)
        return Prediction(ANSWER)

    async def _meet_the_others(self) -> None:
        """Return once all of them are here at one time."""
        self.napping += 1
        if self.napping == AT_ONCE:
            self.met.set()
        await self.met.wait()


def _said(image_b64: str) -> bytes:
    try:
        return base64.b64decode(image_b64, validate=True)
    except (binascii.Error, ValueError):
        return b""


def app(hotkey: str, permitted: list[str], settings: WireSettings) -> AxonApp:
    access = AccessPolicy(
        AccessSettings(requests_per_s=1e4, burst=10_000),
        {each: Neuron(uid=uid, validator_permit=True) for uid, each in enumerate(permitted)},
    )
    limits = RequestSettings(deadline_s=PATIENT_S)
    return AxonApp(Handler(), routes=RouteTable(subnet72.routes(hotkey, settings)), access=access, settings=limits)


async def main() -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    hotkey, *permitted = sys.argv[1:]
    usual = WireSettings(btauth_waits_s=PATIENT_S, timeout_cap_s=PATIENT_S, nonce_retention_s=2 * PATIENT_S)
    lenient = WireSettings(allow_unbound_receiver=True, btauth_path="/roads", btauth_body="image")
    # For many at once: a busy peer is slow to use the connections that it has opened.
    patient = AxonSettings(host="127.0.0.1", port=0, first_request_s=PATIENT_S, keep_alive_s=int(PATIENT_S))
    default = AxonSettings(host="127.0.0.1", port=0, first_request_s=PATIENT_S)
    ports = {}
    for name, wire, where in (("axon", usual, default), ("lenient", lenient, default), ("patient", usual, patient)):
        server = AxonServer(app(hotkey, permitted, wire), where)
        await server.start()
        ports[name] = server.port
    print(json.dumps(ports), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())

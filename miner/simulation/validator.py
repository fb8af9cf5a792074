"""A validator in a process of its own: the real bittensor SDK's dendrite, told what to ask on standard input.

After a line that says it is ready, every line of standard input is a challenge, as JSON with its name and the path of
an image. For each, what validators do to a picture in a stream is done to it, one signed `ImageSynapse` is sent, and a
line of JSON with the answer comes out. It ends when standard input does, after the last answer.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TextIO, get_args

import bittensor as bt
from bittensor.utils import networking

from miner.logs import repair_loggers_after_bittensor
from miner.simulation.keys import HOTKEY
from offline.stream.sender import StreamSender
from stage1.certificate.stream import Stream
from stage1.preprocess import PreprocessSettings

ORIGIN = "x-cascade-bundle"


class ImageSynapse(bt.Synapse):
    """The synapse of subnet 72, field by field as validators send it."""

    testnet_label: int = -1
    image: str = ""
    prediction: float = -1.0


class Dendrite(bt.Dendrite):
    """The SDK's, which also notes down the HTTP status of an answer and which bundle it says it is from."""

    def __init__(self, wallet: bt.Wallet) -> None:
        super().__init__(wallet=wallet)
        self.replies: dict[int, tuple[int, str]] = {}

    def process_server_response(self, server_response: Any, json_response: Any, local_synapse: bt.Synapse) -> None:  # noqa: ANN401  the SDK's signature
        """See the SDK."""
        self.replies[id(local_synapse)] = server_response.status, server_response.headers.get(ORIGIN, "")
        super().process_server_response(server_response, json_response, local_synapse)


class Validator:
    """Asks one miner.

    Args:
        dendrite: asks.
        axon: the miner.
        sender: does to pictures what validators do.
        timeout_s: how long it waits for an answer.
        output: takes the answers.
    """

    def __init__(
        self, dendrite: Dendrite, axon: bt.AxonInfo, sender: StreamSender, timeout_s: float, output: TextIO
    ) -> None:
        self._dendrite = dendrite
        self._axon = axon
        self._sender = sender
        self._timeout_s = timeout_s
        self._output = output
        # One picture at a time, beside the loop: what is done to the next ones must not count as time of an answer.
        self._pool = ThreadPoolExecutor(1)

    async def run(self, lines: TextIO) -> None:
        """Until there are no more lines and the last answer is in."""
        self._tell({"ready": True})
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()
        while line := await loop.run_in_executor(None, lines.readline):
            asked = json.loads(line)
            task = loop.create_task(self._ask(asked["name"], Path(asked["image"])))
            pending.add(task)
            task.add_done_callback(pending.discard)
        await asyncio.gather(*pending)
        await self._dendrite.aclose_session()  # type: ignore[no-untyped-call]

    async def _ask(self, name: str, image: Path) -> None:
        try:
            content = await asyncio.get_running_loop().run_in_executor(self._pool, self._sent, name, image)
        except Exception as error:  # noqa: BLE001  whatever it is, the simulation waits for a word of it
            shown = os.fsencode(f"{image}: {error}").decode(errors="replace")
            self._tell({"name": name, "unsent": shown})
            return
        told: dict[str, Any] = {"name": name, "sha256": hashlib.sha256(content).hexdigest()}
        started = time.perf_counter()
        try:
            told |= await self._answer(content)
        except Exception as error:  # noqa: BLE001
            told |= {"replied": False, "status": 0, "message": f"the dendrite failed: {error!r}"}
            told |= {"prediction": None, "bundle": ""}
        self._tell(told | {"ms": (time.perf_counter() - started) * 1e3})

    async def _answer(self, content: bytes) -> dict[str, Any]:
        synapse = ImageSynapse(image=base64.b64encode(content).decode())
        # The SDK's annotation covers streaming too; one axon and no streaming is a list of one synapse.
        reply: Any = await self._dendrite.forward(
            axons=[self._axon], synapse=synapse, timeout=self._timeout_s, deserialize=False
        )
        [answer] = reply
        # The SDK keeps every request for ever.
        self._dendrite.synapse_history.clear()
        told = answer.dendrite
        reply_of = self._dendrite.replies.pop(id(answer), None)
        status, bundle = reply_of or (0, "")
        return {
            "replied": reply_of is not None,
            "prediction": answer.prediction,
            "status": int(told.status_code or status),
            "message": told.status_message or "",
            "bundle": bundle,
        }

    def _sent(self, name: str, image: Path) -> bytes:
        return self._sender(f"{name}\0{image.name}", image.read_bytes(), PreprocessSettings())

    def _tell(self, record: dict[str, Any]) -> None:
        self._output.write(json.dumps(record) + "\n")
        self._output.flush()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--miner-hotkey", required=True)
    parser.add_argument("--wallet-path", required=True)
    parser.add_argument("--wallet-name", required=True)
    parser.add_argument("--stream", required=True, choices=get_args(Stream))
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    return parser.parse_args()


def _claim_stdout() -> TextIO:
    # The SDK logs to standard output; from here on that is standard error.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


async def _run(arguments: argparse.Namespace, output: TextIO) -> None:
    wallet = bt.Wallet(name=arguments.wallet_name, hotkey=HOTKEY, path=arguments.wallet_path)
    key, host = arguments.miner_hotkey, arguments.host
    ip_type = 6 if ":" in host else 4
    axon = bt.AxonInfo(version=1, ip=host, port=arguments.port, ip_type=ip_type, hotkey=key, coldkey=key)
    sender = StreamSender(arguments.stream, seed=arguments.seed)
    await Validator(Dendrite(wallet), axon, sender, arguments.timeout_s, output).run(sys.stdin)


def main() -> None:
    """Run until standard input ends."""
    output = _claim_stdout()
    # The dendrite asks six services on the internet for its own address, which nobody on loopback needs. One of the
    # documentation: it would replace its own by 0.0.0.0.
    networking.get_external_ip = lambda: "192.0.2.1"
    repair_loggers_after_bittensor()
    asyncio.run(_run(_arguments(), output))


if __name__ == "__main__":
    main()

"""A validator on this machine: the real bittensor SDK's dendrite, fed from standard input.

After a line that says it is ready, every line of standard input is the path of an image; for each, one signed
`ImageSynapse` is sent, and one line of JSON with the answer comes out. Pictures go through what validators do in a
stream. Only `cascade demo` uses it.
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
from pathlib import Path
from typing import Any, TextIO, get_args

import bittensor as bt
from bittensor.utils import networking

from miner.logs import repair_loggers_after_bittensor
from offline.stream.sender import StreamSender
from stage1.certificate.stream import Stream
from stage1.preprocess import PreprocessSettings

TIMEOUT_S = 9.0


class ImageSynapse(bt.Synapse):
    """The synapse of subnet 72, field by field as validators send it."""

    testnet_label: int = -1
    image: str = ""
    prediction: float = -1.0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--miner-hotkey", required=True)
    parser.add_argument("--wallet-path", required=True)
    parser.add_argument("--wallet-name", required=True)
    parser.add_argument("--stream", required=True, choices=get_args(Stream))
    parser.add_argument("--seed", type=int, required=True)
    return parser.parse_args()


def _claim_stdout() -> TextIO:
    # The SDK logs to standard output; from here on that is standard error.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


def _tell(output: TextIO, record: dict[str, Any]) -> None:
    output.write(json.dumps(record) + "\n")
    output.flush()


async def _ask(dendrite: bt.Dendrite, axon: bt.AxonInfo, path: str, content: bytes, output: TextIO) -> None:
    synapse = ImageSynapse(image=base64.b64encode(content).decode())
    started = time.perf_counter()
    # The SDK's annotation covers streaming too; one axon and no streaming is a list of one synapse.
    reply: Any = await dendrite.forward(axons=[axon], synapse=synapse, timeout=TIMEOUT_S, deserialize=False)
    answer = reply[0]
    record = {
        "image": path,
        "sha256": hashlib.sha256(content).hexdigest(),
        "prediction": answer.prediction,
        "status": answer.dendrite.status_code,
        "message": answer.dendrite.status_message,
        "ms": (time.perf_counter() - started) * 1e3,
    }
    _tell(output, record)


def _sent(path: str, sender: StreamSender) -> bytes:
    picture = Path(path)
    return sender(picture.name, picture.read_bytes(), PreprocessSettings())


async def _run(arguments: argparse.Namespace, output: TextIO) -> None:
    wallet = bt.Wallet(name=arguments.wallet_name, path=arguments.wallet_path)
    key = arguments.miner_hotkey
    axon = bt.AxonInfo(version=1, ip="127.0.0.1", port=arguments.port, ip_type=4, hotkey=key, coldkey=key)
    dendrite = bt.Dendrite(wallet=wallet)
    sender = StreamSender(arguments.stream, seed=arguments.seed)
    _tell(output, {"ready": True})
    loop = asyncio.get_running_loop()
    pending: set[asyncio.Task[None]] = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        path = line.rstrip("\n")
        task = loop.create_task(_ask(dendrite, axon, path, _sent(path, sender), output))
        pending.add(task)
        task.add_done_callback(pending.discard)
    await asyncio.gather(*pending)
    await dendrite.aclose_session()  # type: ignore[no-untyped-call]


def main() -> None:
    """Run until standard input ends."""
    output = _claim_stdout()
    # The dendrite asks six services on the internet for its own address, which nobody on loopback needs.
    networking.get_external_ip = lambda: "127.0.0.1"
    repair_loggers_after_bittensor()
    asyncio.run(_run(_arguments(), output))


if __name__ == "__main__":
    main()

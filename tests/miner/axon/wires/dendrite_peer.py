"""A validator's side of the wire: the dendrite of whatever bittensor is installed, asking one axon about images.

Prints one JSON object per answer: {image, prediction, status_code, status_message, ms}. Works with bittensor 9.9 and
10.5.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--axon-hotkey", required=True)
    parser.add_argument("--wallet-path", required=True)
    parser.add_argument("--wallet-name", required=True)
    parser.add_argument("--wallet-hotkey", required=True)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1, help="ask this often about each image")
    parser.add_argument("--timeout", type=float, default=9.0, help="seconds")
    parser.add_argument("images", nargs="+", type=Path)
    return parser.parse_args()


def claim_stdout() -> TextIO:
    # The SDK logs to standard output; from here on that is standard error.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return output


async def ask_all(sdk: Any, options: argparse.Namespace, contents: list[tuple[Path, str]], output: TextIO) -> None:
    class ImageSynapse(sdk.Synapse):  # type: ignore[misc]  # field by field what the validators of the subnet send
        testnet_label: int = -1
        image: str = ""
        prediction: float = -1.0

    networking: Any = importlib.import_module("bittensor.utils.networking")
    networking.get_external_ip = lambda: "127.0.0.1"  # it asks the internet otherwise
    wallet = sdk.Wallet(name=options.wallet_name, hotkey=options.wallet_hotkey, path=options.wallet_path)
    axon = importlib.import_module("bittensor.core.chain_data").AxonInfo(
        version=0,
        ip=options.host,
        port=options.port,
        ip_type=4,
        hotkey=options.axon_hotkey,
        coldkey=options.axon_hotkey,
    )
    dendrite = sdk.Dendrite(wallet=wallet)
    turns = asyncio.Semaphore(options.concurrency)

    async def ask(image: Path, image_b64: str) -> None:
        synapse = ImageSynapse(image=image_b64)
        async with turns:
            started = time.perf_counter()
            answers = await dendrite.forward([axon], synapse, timeout=options.timeout, deserialize=False)
            ms = (time.perf_counter() - started) * 1e3
        told = answers[0].dendrite
        record = {
            "image": str(image),
            "prediction": answers[0].prediction,
            "status_code": int(told.status_code),
            "status_message": told.status_message,
            "ms": round(ms, 2),
        }
        output.write(json.dumps(record) + "\n")
        output.flush()

    await asyncio.gather(*(ask(image, content) for image, content in contents for _ in range(options.repeat)))
    await dendrite.aclose_session()


def main() -> None:
    options = parse_arguments()
    output = claim_stdout()
    # The SDK reads the command line of whoever imports it.
    sys.argv = sys.argv[:1]
    contents = [(image, base64.b64encode(image.read_bytes()).decode()) for image in options.images]
    asyncio.run(ask_all(importlib.import_module("bittensor"), options, contents, output))


if __name__ == "__main__":
    main()

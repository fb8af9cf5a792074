"""A Stage-2 server of ours in a process of its own, which keeps to its protocol or breaks it in one way.

    python -m benchmarks.stage2_servers.fake chat URL_FILE
    python -m benchmarks.stage2_servers.fake classifier URL_FILE --fault slow

Writes its address to the file once it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import math
import signal
import ssl
from pathlib import Path

import numpy as np

from benchmarks.stage2_servers.faults import FAULTS, Fault, broken
from tests.support.stage2_servers import Asked, Fake, Handler, chat, classifier


def share(content: bytes) -> float:
    """A number in (0, 1) that is always the same for an image."""
    return (hashlib.sha256(content).digest()[0] + 0.5) / 256


def knowing(kind: str) -> Handler:
    if kind == "classifier":
        return classifier(lambda content: {"probability": np.asarray([share(content)], np.float32)})

    def answer(asked: Asked) -> bytes | None:
        p = share(asked.body)
        return chat({"yes": math.log(p * 0.9), " Yes": math.log(p * 0.1), "no": math.log(1 - p)})(asked)

    return answer


async def serve(kind: str, told: Path, fault: Fault | None, certificate: Path | None) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = Fake(knowing(kind)) if fault is None else broken(fault, knowing(kind))
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    async with server.running(context):
        partial = told.with_suffix(".partial")
        partial.write_text(server.url)
        partial.rename(told)
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("chat", "classifier"))
    parser.add_argument("told", type=Path, help="where the address is written")
    parser.add_argument("--fault", choices=[one.name for one in FAULTS], help="how it breaks the protocol")
    parser.add_argument("--certificate", type=Path, help="a certificate with its key in PEM; without it, no TLS")
    asked = parser.parse_args()
    fault = next((one for one in FAULTS if one.name == asked.fault), None)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(serve(asked.kind, asked.told, fault, asked.certificate))


if __name__ == "__main__":
    main()

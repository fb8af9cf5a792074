"""A Stage-2 server in a process of its own, whose answers take as long as it is told while it runs."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized, SynchronizedArray

REPLY = json.dumps(
    {
        "model_name": "roadwork",
        "model_version": "1",
        "outputs": [{"name": "probability", "datatype": "FP32", "shape": [1], "data": [0.75]}],
    }
).encode()
READY = b"{}"
FIXED = 0.5
HANGS_S = 1e6
KEPT = 100_000


@dataclass
class SlowServer:
    """A server that is running.

    Attributes:
        url: of it.
        mean_s: how long an answer takes on average; it may be changed. From `HANGS_S` on there is none.
        times_s: what the latest answers took in the server, by its own clock; the next one is written at `answered`.
        answered: how many there were.
    """

    url: str
    mean_s: Synchronized[float]
    times_s: SynchronizedArray[float]
    answered: Synchronized[int]

    def latest_s(self, number: int) -> list[float]:
        """What the latest answers took; at most `KEPT` are known."""
        end = self.answered.value
        return [self.times_s[place % KEPT] for place in range(end - number, end)]


@contextmanager
def slow_server(mean_s: float, fixed: float = FIXED) -> Iterator[SlowServer]:
    """Serve the Open Inference Protocol on a free port of this machine.

    Args:
        mean_s: how long an answer takes on average, at first.
        fixed: the part of it that is the same for all; the other part falls off exponentially.
    """
    context = multiprocessing.get_context("spawn")
    mean, times, answered = context.Value("d", mean_s), context.Array("d", KEPT), context.Value("q", 0)
    ours, theirs = context.Pipe()
    process = context.Process(target=_main, args=(theirs, mean, times, answered, fixed), daemon=True)
    process.start()
    try:
        yield SlowServer(f"http://127.0.0.1:{ours.recv()}", mean, times, answered)
    finally:
        process.terminate()
        process.join()


def _main(
    told: Connection,
    mean_s: Synchronized[float],
    times_s: SynchronizedArray[float],
    answered: Synchronized[int],
    fixed: float,
) -> None:
    draw = random.Random(0)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next((line for line in head.split(b"\r\n") if line.startswith(b"content-length:")), b":0")
                await reader.readexactly(int(length.partition(b":")[2]))
                began = time.perf_counter()
                body = REPLY if b"/infer " in head else READY
                if body is REPLY or mean_s.value >= HANGS_S:
                    await asyncio.sleep(mean_s.value * (fixed + (1 - fixed) * draw.expovariate(1.0)))
                if body is REPLY:
                    times_s[answered.value % KEPT] = time.perf_counter() - began
                    answered.value += 1
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())

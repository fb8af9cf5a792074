"""Asks by the client of this program; see `theirs`.

python -m benchmarks.bridge.ours URL IMAGE
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

from stage2_bridge.client import Stage2Client
from stage2_bridge.servers.open_server import client_of
from stage2_bridge.settings import KserveServer


async def run(client: Stage2Client, content: bytes, count: int, at_a_time: int) -> list[float]:
    left, found = iter(range(count)), list[float]()

    async def one() -> None:
        found.extend([await client.ask(content, 30.0) for _ in left])

    await asyncio.gather(*(one() for _ in range(at_a_time)))
    return found


def main() -> None:
    url, path = sys.argv[1:]
    content, loop = Path(path).read_bytes(), asyncio.new_event_loop()
    client = client_of(KserveServer(name="one", url=url, model="brightness", timeout_s=30))
    for line in sys.stdin:
        count, at_a_time = map(int, line.split())
        began, cpu = time.perf_counter(), time.process_time()
        found = loop.run_until_complete(run(client, content, count, at_a_time))
        print(json.dumps([time.process_time() - cpu, time.perf_counter() - began, len(found), found[0]]), flush=True)


if __name__ == "__main__":
    main()

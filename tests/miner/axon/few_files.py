"""A server in a process that may have few files, and a crowd that wants more connections than that."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from functools import partial

FILES, CROWD = 300, 250


async def app(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def serve() -> None:
    """Print the status of a request that comes once the crowd is there."""
    from engines.machine.tally import Tally  # noqa: PLC0415
    from miner.axon.server import AxonServer, tell_failure  # noqa: PLC0415
    from miner.axon.settings import AxonSettings  # noqa: PLC0415
    from miner.logs import configure_logging  # noqa: PLC0415

    configure_logging("INFO", json=True)
    tally = Tally()
    asyncio.get_running_loop().set_exception_handler(partial(tell_failure, tally))
    server = AxonServer(app, AxonSettings(host="127.0.0.1", port=0), tally=tally)
    await server.start()
    crowd = await asyncio.create_subprocess_exec(
        sys.executable, __file__, str(server.port), stdout=asyncio.subprocess.PIPE
    )
    assert crowd.stdout is not None
    await crowd.stdout.readline()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET / HTTP/1.1\r\nhost: axon\r\n\r\n")
    async with asyncio.timeout(60):
        sys.stdout.write(f"{(await reader.readline()).split()[1].decode()}\n")
    writer.close()
    crowd.kill()
    await crowd.wait()
    await server.stop(1)


def crowd(port: int) -> None:
    """Hold connections from many addresses."""
    held = []
    for number in range(CROWD):
        one = socket.socket()
        one.bind((f"127.0.1.{number % 200 + 1}", 0))
        one.connect(("127.0.0.1", port))
        held.append(one)
    sys.stdout.write("there\n")
    sys.stdout.flush()
    time.sleep(120)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES))
    if len(sys.argv) > 1:
        crowd(int(sys.argv[1]))
    else:
        asyncio.run(serve())

"""A client that costs little, so that the server has the cores: requests that are bytes already, kept connections."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from benchmarks.serving.callers import TIMEOUT_S

# For so long aiohttp, and so a dendrite, uses a connection again.
KEPT_S = 15.0


@dataclass(frozen=True)
class Reply:
    """What came back.

    Attributes:
        status: HTTP status, 0 if there was none: the connection broke, or nothing came in time.
        body: of the reply.
        seconds: from the first byte sent to the last byte received.
    """

    status: int
    body: bytes
    seconds: float


class Connection:
    """One connection, kept between requests as a dendrite keeps it, and opened anew where the server closed it.

    Args:
        port: on loopback.
        timeout_s: how long it waits for a reply.
        source: own address on loopback.
    """

    def __init__(self, port: int, timeout_s: float = TIMEOUT_S, source: str = "127.0.0.1") -> None:
        self._port = port
        self._timeout_s = timeout_s
        self._source = source
        self._used = float("-inf")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def ask(self, request: bytes, *rest: bytes, pause_s: float = 0.0) -> Reply:
        """Send a request, in pieces with pauses between them if there is a `rest`, and wait for the reply."""
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(self._timeout_s):
                status, body = await self._exchange(request, rest, pause_s)
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError):
            self.close()
            status, body = 0, b""
        return Reply(status, body, time.perf_counter() - begun)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(self, request: bytes, rest: tuple[bytes, ...], pause_s: float) -> tuple[int, bytes]:
        if self._streams is None or self._streams[0].at_eof() or time.perf_counter() - self._used > KEPT_S:
            self.close()
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, local_addr=(self._source, 0))
        reader, writer = self._streams
        writer.write(request)
        for piece in rest:
            await asyncio.sleep(pause_s)
            if writer.is_closing() or reader.at_eof():
                # It has its reply, or none comes.
                break
            writer.write(piece)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        body = await reader.readexactly(length)
        self._used = time.perf_counter()
        if b"connection: close" in head:
            self.close()
        return int(head[9:12]), body


async def closed_loop(port: int, requests: Iterable[bytes], clients: int) -> list[Reply]:
    """Ask each request once; so many clients, each with the next one as soon as it has its reply."""
    left, replies = iter(requests), []

    async def work() -> None:
        async with Connection(port) as connection:
            replies.extend([await connection.ask(request) for request in left])

    await asyncio.gather(*(work() for _ in range(clients)))
    return replies


async def open_loop(port: int, requests: Sequence[bytes | Callable[[], bytes]], per_s: float) -> list[Reply]:
    """Ask each request when it is due, `per_s` of them a second, whether or not earlier ones are answered.

    The time of a reply counts from when its request was due, so that a client that falls behind hides nothing. A
    request that would be stale by then is given as a function that signs it when it is due.
    """
    loop, free = asyncio.get_running_loop(), list[Connection]()
    first, replies = loop.time(), list[Reply]()

    async def one(number: int, request: bytes | Callable[[], bytes]) -> None:
        due = first + number / per_s
        await asyncio.sleep(due - loop.time())
        connection = free.pop() if free else Connection(port)
        reply = await connection.ask(request if isinstance(request, bytes) else request())
        free.append(connection)
        replies.append(Reply(reply.status, reply.body, loop.time() - due))

    try:
        await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    finally:
        for connection in free:
            connection.close()
    return replies

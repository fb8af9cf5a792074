"""How replies leave a connection, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from miner.axon.http_connection import WholeReply
from miner.axon.server import AxonServer
from miner.axon.settings import AxonSettings

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Written(asyncio.Transport):
    """Remembers each write, and whether it was closed."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


def test_a_reply_is_one_write() -> None:
    transport = Written()
    reply = WholeReply(transport)
    reply.write(HEAD)
    assert transport.writes == []
    reply.write(b"{}")
    reply.flush()
    assert transport.writes == [HEAD + b"{}"]


def test_a_body_in_pieces_is_one_write_a_piece() -> None:
    transport = Written()
    reply = WholeReply(transport)
    for data in (HEAD, b"one", b"two"):
        reply.write(data)
    assert transport.writes == [HEAD + b"one", b"two"]


def test_a_head_without_a_body_is_written_at_the_end() -> None:
    flushed, closed = Written(), Written()
    for transport in (flushed, closed):
        reply = WholeReply(transport)
        reply.write(HEAD)
        reply.flush() if transport is flushed else reply.close()
    assert flushed.writes == closed.writes == [HEAD]
    assert closed.is_closing()


def test_a_caller_that_waits_for_the_word_to_go_on_is_told_at_once() -> None:
    transport = Written()
    reply = WholeReply(transport)
    reply.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    event = await receive()
    body = b"" if scope["method"] == "HEAD" else event["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def served(talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]) -> bytes:
    async def run() -> bytes:
        server = AxonServer(echo, AxonSettings(host="127.0.0.1", port=0))
        await server.start()
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            async with asyncio.timeout(60):
                found = await talk(reader, writer)
            writer.close()
            return found
        finally:
            await server.stop(1)

    return asyncio.run(run())


def test_a_request_for_the_head_alone_is_answered() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"HEAD / HTTP/1.1\r\nhost: here\r\n\r\n")
        return await reader.readuntil(b"\r\n\r\n")

    assert served(talk).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_body_is_sent_after_the_word_to_go_on() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST / HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        writer.write(b"body")
        await reader.readuntil(b"\r\n\r\n")
        return await reader.readexactly(4)

    assert served(talk) == b"body"


def test_requests_that_are_sent_ahead_are_answered_in_their_order() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        for body in (b"1", b"2", b"3"):
            writer.write(b"POST / HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\n\r\n" + body)
        found = b""
        for _ in range(3):
            await reader.readuntil(b"\r\n\r\n")
            found += await reader.readexactly(1)
        return found

    assert served(talk) == b"123"

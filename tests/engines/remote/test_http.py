"""One request to another machine."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from engines.errors import RemoteError
from engines.remote import http as remote


def test_a_client_that_is_closed_sends_nothing_and_says_so() -> None:
    async def run() -> None:
        client = remote.Client(connections=1)
        await client.aclose()
        with pytest.raises(RemoteError, match="not sent, for its connections are closed") as told:
            await remote.ask(client, "GET", "http://127.0.0.1:1/v2", timeout_s=1.0)
        assert told.value.passing

    asyncio.run(run())


REPLY = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


def test_what_a_server_says_without_being_asked_is_no_reply_to_the_next_request() -> None:
    free, spoken = asyncio.Event(), asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(REPLY % (5, asked.split()[1][:5]))
        await writer.drain()
        if asked.startswith(b"POST /one"):
            # The client has put the connection back, and the two are not read together.
            await free.wait()
            writer.write(REPLY % (5, b"again"))
            await writer.drain()
            spoken.set()
        await reader.read()
        writer.close()

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, aclosing(remote.Client(connections=1)) as client:
            assert (await remote.ask(client, "POST", f"{url}/one_", timeout_s=60.0)).content == b"/one_"
            free.set()
            await spoken.wait()
            await asyncio.sleep(0.02)
            with pytest.raises(RemoteError, match="without being asked") as told:
                await remote.ask(client, "POST", f"{url}/two_", timeout_s=60.0)
            assert told.value.stale
            assert told.value.passing
            assert (await remote.ask(client, "POST", f"{url}/two_", timeout_s=60.0)).content == b"/two_"

    asyncio.run(run())

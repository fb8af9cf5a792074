"""One request to another machine."""

from __future__ import annotations

import asyncio

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

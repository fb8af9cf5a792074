"""A scenario of a test that is asynchronous."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


def run(scenario: Callable[[], Awaitable[None]], *, seconds: float = 600.0, debug: bool | None = None) -> None:
    """Run it; one that hangs fails.

    Args:
        scenario: begins it.
        seconds: that it may take; a safety limit.
        debug: whether the loop refuses what is not safe between threads.
    """

    async def limited() -> None:
        async with asyncio.timeout(seconds):
            await scenario()

    asyncio.run(limited(), debug=debug)

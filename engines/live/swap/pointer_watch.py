"""Noticing that the store's pointer moves."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import structlog
from watchfiles import awatch

from engines.store.store import POINTER

log = structlog.get_logger(__name__)

POLL_MS = 2_000


async def watch_pointer(root: Path, look: Callable[[], None], stop: asyncio.Event) -> None:
    """Call `look` when the pointer may have moved, and every two seconds, until `stop` is set.

    Args:
        root: of the store.
        look: must return at once.
        stop: ends it.
    """
    try:
        await _watch(root, look, stop)
    # The library's own error, of a host on which others have taken all instances of inotify, is a RuntimeError.
    except (OSError, RuntimeError) as error:
        log.warning("watching_by_polling", reason=str(error))
        await _poll(look, stop)


async def _watch(root: Path, look: Callable[[], None], stop: asyncio.Event) -> None:
    async for _ in awatch(
        root,
        watch_filter=lambda _change, path: path.endswith(POINTER),
        stop_event=stop,
        recursive=False,
        rust_timeout=POLL_MS,
        yield_on_timeout=True,
    ):
        look()


async def _poll(look: Callable[[], None], stop: asyncio.Event) -> None:
    while not stop.is_set():
        look()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL_MS / 1000):
                await stop.wait()

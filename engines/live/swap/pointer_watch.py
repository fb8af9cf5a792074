"""Noticing that the store's pointer moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import structlog
from watchfiles import awatch

from engines.errors import EXPECTED, UnknownBundle
from engines.store.store import POINTER, Store

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
        await _watch(root, look, stop, force_polling=False)
    except OSError as error:
        # A busy host runs out of inotify watches; the miner goes on without.
        log.warning("watching_by_polling", reason=str(error))
        await _watch(root, look, stop, force_polling=True)


async def _watch(root: Path, look: Callable[[], None], stop: asyncio.Event, *, force_polling: bool) -> None:
    async for _ in awatch(
        root,
        watch_filter=lambda _change, path: path.endswith(POINTER),
        stop_event=stop,
        recursive=False,
        rust_timeout=POLL_MS,
        yield_on_timeout=True,
        force_polling=force_polling,
    ):
        look()


def current_bundle(store: Store) -> str:
    """Id of the bundle that the pointer names.

    Raises:
        UnknownBundle: it names none.
        StoreError: it cannot be read.
    """
    pointer = store.current()
    if pointer is None:
        raise UnknownBundle(f"{store.root}: no bundle is current; run `cascade retrain` first")
    return pointer.bundle


def pointer_has_left(store: Store, wanted: str) -> bool:
    """Whether the pointer names another bundle than the wanted one; one that cannot be read names none."""
    try:
        return current_bundle(store) != wanted
    except EXPECTED:
        return False

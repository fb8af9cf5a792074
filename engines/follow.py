"""Following the store: when the `current` pointer moves, the new bundle is loaded beside the old one and swapped in."""

from __future__ import annotations

import asyncio
import ctypes
import time
from concurrent.futures import ThreadPoolExecutor

import structlog
from watchfiles import awatch

from engines.bundle import load_bundle
from engines.errors import EngineError, UnknownBundle
from engines.slot import BundleSlot, Live
from engines.store import POINTER, Store
from stage1.errors import Stage1Error

log = structlog.get_logger(__name__)

POLL_MS = 2_000


class StoreFollower:
    """Keeps a slot at the store's current bundle.

    Hashing, loading, warming and the parity check run on a thread of its own, never on the serving threads. A
    bundle that is refused leaves the live one in place.

    Args:
        store: where the pointer is.
        threads: intra-op threads of each engine.
    """

    def __init__(self, store: Store, *, threads: int | None = None) -> None:
        self.slot = BundleSlot(on_closed=_closed)
        self.swaps = 0
        self.refusals = 0
        self._store = store
        self._threads = threads
        self._live_id: str | None = None
        self._refused_id: str | None = None
        # Not at low priority: an engine's threads inherit the niceness of the thread that makes it, and keep it.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="bundle-loader")
        self._one_at_a_time = asyncio.Lock()

    async def start(self) -> None:
        """Load the current bundle.

        Raises:
            UnknownBundle: the store has none.
            EngineError: it was refused.
        """
        await self._load_current()

    async def run(self, stop: asyncio.Event) -> None:
        """Watch the pointer until `stop` is set."""
        try:
            await self._watch(stop, force_polling=False)
        except OSError as error:
            # A busy host runs out of inotify watches; the miner goes on without.
            log.warning("watching_by_polling", reason=str(error))
            await self._watch(stop, force_polling=True)

    async def _watch(self, stop: asyncio.Event, *, force_polling: bool) -> None:
        async for _ in awatch(
            self._store.root,
            watch_filter=lambda _change, path: path.endswith(POINTER),
            stop_event=stop,
            recursive=False,
            rust_timeout=POLL_MS,
            yield_on_timeout=True,
            force_polling=force_polling,
        ):
            await self.refresh()

    async def refresh(self) -> bool:
        """Load the current bundle if it is not the live one; never raises for a bad bundle.

        Returns:
            True if a swap happened.
        """
        try:
            return await self._load_current()
        except (EngineError, Stage1Error, OSError) as error:
            log.error("bundle_refused", reason=str(error), live=self._live_id)
            return False

    async def close(self) -> None:
        """Retire the live bundle and stop the loader."""
        self.slot.close()
        self._loader.shutdown(wait=False, cancel_futures=True)

    async def _load_current(self) -> bool:
        async with self._one_at_a_time:
            pointer = self._store.current()
            if pointer is None:
                raise UnknownBundle(f"{self._store.root}: no bundle is current; run `cascade retrain` first")
            wanted = pointer.bundle
            if wanted == self._live_id:
                self._refused_id = None
                return False
            if wanted == self._refused_id:
                return False
            started = time.monotonic()
            try:
                path = self._store.path(wanted)
                bundle = await asyncio.get_running_loop().run_in_executor(
                    self._loader, lambda: load_bundle(path, threads=self._threads)
                )
            except (EngineError, Stage1Error, OSError):
                self._refused_id = wanted
                self.refusals += 1
                raise
            generation = self.slot.swap(bundle)
            replaced, self._live_id, self._refused_id = self._live_id, wanted, None
            self.swaps += replaced is not None
            seconds = round(time.monotonic() - started, 3)
            status = bundle.params.status
            log.info(
                "bundle_live", bundle=wanted, generation=generation, replaced=replaced, policy=status, load_s=seconds
            )
            return True


def _closed(live: Live) -> None:
    log.info("bundle_closed", bundle=live.bundle.bundle_id, generation=live.generation)
    try:
        # Without it glibc keeps the freed weights, and every swap makes the process larger.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        log.debug("malloc_trim_unavailable")

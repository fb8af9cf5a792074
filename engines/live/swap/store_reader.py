"""What a follower reads of its store, by a thread: a disk that hangs keeps no request, and no rollback, waiting."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from engines.errors import EXPECTED, Interrupted, StoreError, UnknownBundle
from engines.live.load.load_bundle import LiveBundle
from engines.machine.background_tasks import is_over, unless
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.disk.latest import Latest
from engines.store.holds import Holds
from engines.store.model_card import submitted_at
from engines.store.records import last_move
from engines.store.store import Store

# A store that says nothing for so long hangs.
ON_DISK_S = 10.0
# And one that has not taken a pointer: the bundle is hashed before that, at low priority.
MOVE_S = 300.0
# The end of a hold is waited for so long.
HELD_S = 1.0

T = TypeVar("T")


class Told(NamedTuple):
    """What the store says of the gate's last verdict, and of a bundle.

    Attributes:
        verdict: as plain values; None if the gate has said nothing.
        bundle: id of the bundle; empty for none.
        submitted_at: since when it counts, UTC; None if nothing says so.
        move: how it became current, as plain values; None if nothing says so.
    """

    verdict: dict[str, Any] | None = None
    bundle: str = ""
    submitted_at: datetime | None = None
    move: dict[str, Any] | None = None


class Precedence:
    """Of rollbacks over what else a follower does: whoever waits for a disk gives way to them."""

    def __init__(self) -> None:
        self._number = 0
        self._any = asyncio.Event()

    @property
    def wanted(self) -> bool:
        """Whether a rollback is wanted or under way."""
        return self._number > 0

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """A rollback is wanted within this block."""
        self._number += 1
        self._any.set()
        try:
            yield
        finally:
            self._number -= 1
            if not self._number:
                self._any.clear()

    async def wait(self) -> None:
        """Until one is wanted."""
        await self._any.wait()


class BundleHolds:
    """The holds of this process on bundles, begun and ended by the thread of the disk; see `engines.store.holds`.

    Args:
        root: of the store.
        disk: its thread.
    """

    def __init__(self, root: Path, disk: DiskThread) -> None:
        self._holds = Holds(root)
        self._disk = disk

    def begin(self, bundle: str) -> None:
        """Hold a bundle before anything else is done with the store."""
        self._disk.submit(lambda: self._holds.begin(bundle))

    def end(self, bundle: str, wait_s: float = 0.0) -> None:
        """End one hold, and wait for that as long as a thread may."""
        ended = self._disk.submit(lambda: self._holds.end(bundle))
        if wait_s:
            wait([ended], timeout=wait_s)

    async def ended(self, bundle: str) -> None:
        """End one hold, and wait a second for that, on the event loop."""
        await is_over(self._disk.submit(lambda: self._holds.end(bundle)), HELD_S)


class StoreReader:
    """Reads a store.

    Args:
        store: the store.
        disk: its thread.
    """

    def __init__(self, store: Store, disk: DiskThread) -> None:
        self._store = store
        self._disk = disk
        self._live: LiveBundle | None = None
        self._latest = Latest(disk, self._read, Told())

    def told(self, live: LiveBundle | None) -> Told:
        """What the store said last; nothing of a bundle that is not the live one."""
        told = self._latest.value
        return told if live is not None and told.bundle == live.bundle_id else Told(told.verdict)

    async def look(self, live: LiveBundle | None, wait_s: float) -> None:
        """Read anew what `told` says.

        Args:
            live: the live bundle.
            wait_s: the longest wait.
        """
        self._live = live
        await self._latest.look(wait_s)

    async def current(self, rollbacks: Precedence) -> str | None:
        """Id of the bundle that the pointer names; None where a rollback is wanted meanwhile.

        Raises:
            UnknownBundle: it names none.
            StoreError: it cannot be read.
        """
        try:
            return await self._unless(rollbacks, self._current)
        except Interrupted:
            return None

    async def path(self, bundle: str, rollbacks: Precedence) -> Path:
        """Directory of a bundle.

        Raises:
            UnknownBundle: it is not there.
            Interrupted: a rollback is wanted meanwhile.
        """
        return await self._unless(rollbacks, lambda: self._store.path(bundle))

    async def has_left(self, wanted: str) -> bool:
        """Whether the pointer names another bundle than the wanted one; one that cannot be read in time names none."""
        try:
            async with asyncio.timeout(ON_DISK_S):
                return await self._disk.run(self._current) != wanted
        except (TimeoutError, *EXPECTED):
            return False

    async def _unless(self, rollbacks: Precedence, work: Callable[[], T]) -> T:
        why = "given up, because a rollback is wanted"
        return await unless(self._disk.run(work), rollbacks.wait(), Interrupted(why))

    def _current(self) -> str:
        pointer = self._store.current()
        if pointer is None:
            raise UnknownBundle(f"{self._store.root}: no bundle is current; run `cascade retrain` first")
        return pointer.bundle

    def _read(self) -> Told:
        live, verdict = self._live, self._store.last_verdict()
        plain = None if verdict is None else verdict.model_dump(exclude={"schema_version"})
        if live is None:
            return Told(plain)
        move = None
        # Told to people, as the verdict.
        with contextlib.suppress(StoreError, OSError):
            move = last_move(self._store.root, live.bundle_id)
        return Told(
            plain,
            live.bundle_id,
            submitted_at(self._store.root, live.manifest),
            None if move is None else {"action": move.action, "at": move.at},
        )

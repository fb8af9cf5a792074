"""Following the store: when the `current` pointer moves, the new bundle is loaded beside the old one and swapped in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import structlog

from engines.errors import (
    EXPECTED,
    BundleRefused,
    Interrupted,
    NotThereYet,
    PointerNotMoved,
    Postponed,
    StoreError,
    UnknownBundle,
)
from engines.live.load.background_loader import BundleLoader, EngineOptions, Loaded
from engines.live.load.load_bundle import LiveBundle
from engines.live.settings import SwapSettings
from engines.live.slot import BundleSlot, Live
from engines.live.states import REFUSABLE, Lifecycle, State
from engines.live.swap.drain import report_overdue
from engines.live.swap.history import History
from engines.live.swap.on_live import OnLive
from engines.live.swap.pointer_watch import watch_pointer
from engines.live.swap.recalibration import Recalibrate, Recalibration
from engines.live.swap.status import Did, Status, status_of
from engines.live.swap.store_reader import HELD_S, MOVE_S, BundleHolds, Precedence, StoreReader
from engines.machine.background_tasks import BackgroundTasks, Once
from engines.machine.descriptors import lacks_descriptors
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.memory import give_back
from engines.machine.tally import Tally
from engines.store.store import Store
from stage1.errors import without_addresses

log = structlog.get_logger(__name__)

# Between two looks at a bundle that servers have not got yet; each reads all of it.
AGAIN_S = 60.0


class StoreFollower:
    """Keeps a slot at the store's current bundle; one that is refused leaves the live one in place.

    Args:
        store: where the pointer is.
        settings: how bundles are replaced.
        options: engines.
        recalibrate: asked first where a bundle's engine is for another machine; None where nobody can.
    """

    def __init__(
        self,
        store: Store,
        *,
        settings: SwapSettings | None = None,
        options: EngineOptions | None = None,
        recalibrate: Recalibrate | None = None,
    ) -> None:
        self._settings = settings or SwapSettings()
        self.slot = BundleSlot(self._closed, dispose=self._dispose, standby=self._settings.standby)
        self.swaps = 0
        self.refusals = 0
        # Whoever watches new bundles; it may need this follower to be made.
        self.on_live: OnLive | None = None
        self._store = store
        # Touches the store, so that one that hangs keeps no request waiting.
        self.disk = DiskThread("store")
        self._reader = StoreReader(store, self.disk)
        self._tasks = BackgroundTasks()
        self._refresh, self._leave = Once(self._tasks), Once(self._tasks)
        self._history = History()
        self._recalibration = Recalibration(recalibrate, self._tasks, self._recalibrated)
        self._holds = BundleHolds(store.root, self.disk)
        self._loader = BundleLoader(self.slot, self._settings, options or EngineOptions(), on_taken=self._gone)
        self._live: LiveBundle | None = None
        # Whether the live engine is there only until the bundle's own can serve.
        self._stands_in = False
        self._refused_id: str | None = None
        self._wanted: str | None = None  # what is being loaded
        self._rollbacks = Precedence()
        self._one_at_a_time = asyncio.Lock()
        self._closing = False
        # The pointer is looked at every two seconds.
        self._postponed, self._unreadable = Tally("bundle_postponed"), Tally("bundle_refused")

    @property
    def live_id(self) -> str | None:
        """Id of the live bundle, None if there is none."""
        return None if self._live is None else self._live.bundle_id

    async def start(self) -> None:
        """Load the current bundle, or the one before it where it is refused: as a process that ran would serve on.

        Raises:
            UnknownBundle: the store has none.
            EngineError: it was refused, and so was the one before it, or there is none.
        """
        try:
            await self._load_current()
        except EXPECTED as error:
            if isinstance(error, Postponed) or not await self._load_before(str(error)):
                raise

    async def _load_before(self, why: str) -> bool:
        """Load what a rollback would go to, unless that was rejected; the current one stays refused."""
        refused = self._refused_id
        pointer = await self.disk.run(self._store.current)
        before = None if pointer is None or pointer.bundle != refused else pointer.previous
        if before is None or before in await self.disk.run(self._store.rejected):
            return False
        async with self._one_at_a_time:
            life = self._history.wanted(before)
            try:
                loaded = await self._load(before, life)
                if self._closing:
                    self._unload(loaded, life)
                    return False
                self._take(loaded, life)
            except EXPECTED as error:
                log.error("bundle_refused", reason=str(error), live=None)
                return False
            finally:
                self._refused_id = refused
        log.error("bundle_refused", reason=why, live=before)
        return True

    async def run(self, stop: asyncio.Event) -> None:
        """Watch the pointer until `stop` is set."""
        await watch_pointer(self._store.root, self._look, stop)

    def _look(self) -> None:
        """Refresh, or end a load that the pointer has left: compiling takes minutes."""
        if self._wanted is None:
            self._refresh.begin(self.refresh)
        else:
            self._leave.begin(self._leave_what_nobody_wants)

    async def _leave_what_nobody_wants(self) -> None:
        if (wanted := self._wanted) and await self._reader.has_left(wanted) and wanted == self._wanted:
            self._loader.interrupt()

    async def reload(self) -> bool:
        """Like `refresh`, and a bundle that was refused is tried again: what it lacked may be there now.

        Returns:
            True if a swap happened.
        """
        self._refused_id = None
        return await self.refresh()

    async def refresh(self) -> bool:
        """Load the current bundle if it is not the live one; never raises for a bad bundle.

        Returns:
            True if a swap happened.
        """
        refused = self._refused_id
        try:
            return await self._load_current()
        except Interrupted as error:
            log.info("bundle_postponed", reason=str(error), live=self.live_id)
        except (Postponed, NotThereYet) as error:
            self._postponed.add(type(error).__name__, f"{error}; it is looked at again", live=self.live_id)
        except EXPECTED as error:
            if self._refused_id in {None, refused}:
                # It is the store that cannot be read.
                self._unreadable.add(type(error).__name__, f"{error}; it is looked at again", live=self.live_id)
            else:
                log.error("bundle_refused", reason=str(error), live=self.live_id)
        return False

    async def give_up(self, bundle: str, why: str, *, now: datetime) -> bool:
        """Have the bundle before a live one serve in its place, and never take it from the store again by itself.

        Args:
            bundle: id of the one to give up; nothing happens if another one is live.
            why: it is; goes into the store.
            now: as in `rollback`.

        Returns:
            Whether another bundle serves.
        """
        if self.live_id != bundle:
            return False
        try:
            await self.rollback(now=now, why=why)
        except PointerNotMoved as error:
            log.error("pointer_not_moved", bundle=bundle, reason=str(error))
        except UnknownBundle:
            return await self._load_previous(why, now)
        except StoreError as error:
            log.info("not_given_up", bundle=bundle, reason=str(error))
            return False
        return True

    async def _load_previous(self, why: str, now: datetime) -> bool:
        """Where none stands by, the pointer moves first, and the bundle is loaded beside the one to give up."""
        try:
            await self._loader.quietly(lambda: self._store.rollback(now=now, why=why))
        except EXPECTED as error:
            log.error("not_given_up", bundle=self.live_id, reason=str(error))
            return False
        return await self.refresh()

    async def rollback(self, *, now: datetime, why: str = "") -> int:
        """Make the bundle that stands by live at once, and then the store's pointer follow.

        Args:
            now: the time to record in the store's history, with a time zone.
            why: the other one is rejected; empty where an operator does not say.

        Returns:
            The new generation.

        Raises:
            UnknownBundle: none stands by.
            StoreError: another bundle went live while this waited; nothing is changed.
            PointerNotMoved: the store could not follow; the old bundle is live all the same, until the pointer moves.
        """
        seen = self.slot.generation
        if self.slot.standby is None:
            raise UnknownBundle("no bundle stands by to roll back to")
        with self._rollbacks.under_way():
            # Whoever rolls back does not wait for something else to be compiled or tried, nor for a disk.
            self._loader.interrupt()
            async with self._one_at_a_time:
                if self.slot.generation != seen:
                    raise StoreError("another bundle went live meanwhile: look at the status, and roll back again")
                before = self.live_id
                generation = self._roll_back()
                await self._move_pointer(now, why, before)
        return generation

    async def _move_pointer(self, now: datetime, why: str, before: str | None) -> None:
        """Have the store follow a rollback from a bundle."""
        wanted = self.live_id
        # What the pointer names must not come back until somebody moves the pointer, also where it cannot be read now.
        self._refused_id = before
        try:
            async with asyncio.timeout(MOVE_S):
                pointer = await self.disk.run(self._store.current)
                self._refused_id = before if pointer is None else pointer.bundle
                await self._loader.quietly(lambda: self._store.rollback(now=now, to=wanted, why=why))
        except Exception as error:
            if not isinstance(error, EXPECTED):
                log.exception("pointer_not_moved", bundle=wanted)
            told = str(error) or f"the store has not answered for {MOVE_S:.0f} s"
            raise PointerNotMoved(f"rolled back to {wanted}, but the pointer could not follow: {told}") from error
        self._refused_id = None

    async def close(self) -> None:
        """Retire the live bundle and stop the loader."""
        self._closing = True
        self.slot.close()
        tasks = self._tasks.cancel()
        await self._loader.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> Status:
        """What is live, what stands by, and what happened."""
        told, recalibrating = self._reader.told(self._live), self._recalibration.under_way
        did = Did(self._stands_in, recalibrating, self.swaps, self.refusals, self._history.latest)
        return status_of(self.slot, self._live, told, did)

    async def look(self, wait_s: float) -> None:
        """Read anew what `status` tells of the store, for no longer than so many seconds."""
        await self._reader.look(self._live, wait_s)

    async def _load_current(self) -> bool:
        async with self._one_at_a_time:
            while not self._rollbacks.wanted:
                wanted = await self._reader.current(self._rollbacks)
                if wanted is None:
                    return False
                if wanted == self.live_id and not self._stands_in:
                    self._refused_id = None
                    return False
                if wanted == self._refused_id or self._closing:
                    return False
                if wanted != self.live_id and self.slot.standby is not None and wanted == self.slot.standby.bundle_id:
                    self._roll_back()
                    return True
                life = self._history.wanted(wanted)
                loaded = await self._load(wanted, life)
                if self._closing or await self._reader.has_left(wanted):
                    self._unload(loaded, life)
                    continue
                self._take(loaded, life)
                return True
            return False

    async def _load(self, wanted: str, life: Lifecycle) -> Loaded:
        self._wanted = wanted
        # Before it is looked for: from here on nobody removes it.
        self._holds.begin(wanted)
        try:
            path = await self._reader.path(wanted, self._rollbacks)
            return await self._loader.load(path, life, lambda spec: self._recalibration.begin(wanted, spec))
        except BaseException as error:
            if life.state in REFUSABLE:
                life.refuse(without_addresses(str(error) or repr(error)))
            await self._holds.ended(wanted)
            if isinstance(error, Interrupted) or not isinstance(error, Exception):
                raise
            if lacks_descriptors(error):
                # It says nothing of the bundle, which is looked at again.
                raise Postponed(f"{wanted}: this process has no file descriptor left to look at it") from error
            self._refused_id = wanted
            self.refusals += not isinstance(error, Postponed | NotThereYet)
            if isinstance(error, NotThereYet):
                self._tasks.begin(self._look_later(wanted))
            if isinstance(error, EXPECTED):
                raise
            # A file that nobody expected may raise anything, and the live bundle serves on all the same.
            log.exception("bundle_check_failed", bundle=wanted)
            raise BundleRefused(f"{wanted}: {error!r}") from error
        finally:
            self._wanted = None

    async def _look_later(self, bundle: str) -> None:
        await asyncio.sleep(AGAIN_S)
        await self._recalibrated(bundle)

    async def _recalibrated(self, bundle: str) -> None:
        """Whatever came of it, it is time to look again: for the bundle that is current now, or for another way."""
        # What postponed it may not have refused it yet.
        async with self._one_at_a_time:
            self._refused_id = None if self._refused_id == bundle else self._refused_id
        await self.refresh()

    def _take(self, loaded: Loaded, life: Lifecycle) -> None:
        self._swap(loaded.bundle, life)
        # What stood in for a bundle is nothing to go back to.
        if self._stands_in:
            self.slot.release_standby()
        self._stands_in = loaded.stands_in

    def _unload(self, loaded: Loaded, life: Lifecycle) -> None:
        """Close what was loaded and is not wanted any more; it does not serve."""
        life.to(State.UNLOADED)
        self._holds.end(life.bundle)
        self._loader.dispose(loaded.bundle.close)

    def _swap(self, bundle: LiveBundle, life: Lifecycle) -> None:
        before = self._live
        self._history.serves(bundle, life)
        if before is not None:
            self._history.replaced(before, stands_by=self._settings.standby)
        generation = self.slot.swap(bundle)
        self._live, self._refused_id = bundle, None
        self.swaps += before is not None
        log.info(
            "bundle_live",
            bundle=bundle.bundle_id,
            generation=generation,
            replaced=None if before is None else before.bundle_id,
            policy=bundle.params.status,
            engine=str(bundle.engine.describe()),
            vouched_by=bundle.vouched_by,
            seconds=life.seconds(),
        )
        # The same bundle with another engine is no other bundle.
        self._began(bundle, generation, known=before is None or before.bundle_id == bundle.bundle_id)

    def _roll_back(self) -> int:
        back, before = self.slot.standby, self._live
        if back is None or before is None:
            raise UnknownBundle("no bundle stands by to roll back to")
        generation = self.slot.rollback()
        self._history.serves_again(back)
        self._history.replaced(before, stands_by=True)
        self._live, self._refused_id = back, None
        self.swaps += 1
        log.info("bundle_live", bundle=back.bundle_id, generation=generation, replaced=before.bundle_id, rollback=True)
        self._began(back, generation, known=True)
        return generation

    def _began(self, bundle: LiveBundle, generation: int, *, known: bool) -> None:
        self._tasks.begin(report_overdue(self.slot, generation, self._settings.drain_s))
        if self.on_live is not None:
            self.on_live(bundle, generation, known=known)

    def _dispose(self, close: Callable[[], None]) -> None:
        self._loader.dispose(close)

    def _gone(self, bundle: LiveBundle, wait_s: float = 0.0) -> None:
        self._history.gone(bundle)
        self._holds.end(bundle.bundle_id, wait_s)

    def _closed(self, live: Live) -> None:
        # Whoever is told that it is closed may remove it.
        self._gone(live.bundle, HELD_S)
        log.info("bundle_closed", bundle=live.bundle.bundle_id, generation=live.generation)
        give_back()

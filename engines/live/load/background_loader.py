"""Where each part of loading a bundle runs, and by which way its engine comes to be in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import structlog

from engines.backends.registry import open_engine
from engines.batches import MOST
from engines.engine import Engine, Refittable
from engines.errors import EXPECTED, BundleRefused, EngineError, Interrupted, Postponed
from engines.live.load.load_bundle import CheckedBundle, LiveBundle, check_bundle, load_checked
from engines.live.load.local_compile import COPIES_WHILE_BUILDING, LocalCompiler, Misfit
from engines.live.load.trial_process import try_out
from engines.live.settings import SwapSettings
from engines.live.slot import BundleSlot
from engines.live.states import Lifecycle, State
from engines.machine.background_tasks import unless
from engines.machine.child import NICENESS, Child
from engines.machine.memory import admit, available_bytes, fits
from engines.spec import REFERENCE, EngineSpec
from engines.store.file_names import ENGINE

log = structlog.get_logger(__name__)

CLOSED = "given up, because this process is ending"
T = TypeVar("T")


@dataclass(frozen=True)
class EngineOptions:
    """Which engines are loaded, and for what.

    Attributes:
        serve_with: another engine than those that bundles were certified on; None for those.
        threads: intra-op threads of each.
        most: largest batch that is asked of one.
        compiler: compiles for this machine what a bundle holds for another; None to refuse such bundles.
        memory: memory that is left, bytes.
        opens: opens one, as `open_engine` does.
        elsewhere: what it opens is computed by servers: no certificate is bound to them, and golden images vouch.
    """

    serve_with: EngineSpec | None = None
    threads: int | None = None
    most: int = MOST
    compiler: LocalCompiler | None = None
    memory: Callable[[], int | None] = available_bytes
    opens: Callable[..., Engine] = open_engine
    elsewhere: bool = False


@dataclass(frozen=True)
class _Way:
    """How an engine comes to be here.

    Attributes:
        spec: which engine.
        compiled: directory of what was compiled for this machine; None for what the bundle holds.
        twin: the engine that stood by, whose weights are replaced; None to load one.
        stands_in: it serves only until the bundle's own engine can.
    """

    spec: EngineSpec
    compiled: Path | None = None
    twin: Refittable | None = None
    stands_in: bool = False


@dataclass(frozen=True)
class Loaded:
    """A bundle that may serve.

    Attributes:
        bundle: everything a request may use.
        stands_in: its engine serves only until the bundle's own one can.
    """

    bundle: LiveBundle
    stands_in: bool


class BundleLoader:
    """Loads bundles beside the live one.

    Hashing runs on a thread of its own at low priority, loading on another; a trial with all golden images, and
    compiling, are processes at low priority.

    Args:
        slot: holds the live bundle; what stands by in it makes room for what is loaded, or lends its engine.
        settings: how bundles are replaced.
        options: engines.
        on_taken: told a bundle that stood by and whose engine gets other weights.
    """

    def __init__(
        self,
        slot: BundleSlot,
        settings: SwapSettings,
        options: EngineOptions,
        *,
        on_taken: Callable[[LiveBundle], object],
    ) -> None:
        self._slot = slot
        self._settings = settings
        self._options = options
        self._on_taken = on_taken
        self._child = Child()
        self._interrupted = asyncio.Event()
        self._checker = ThreadPoolExecutor(1, thread_name_prefix="bundle-checker", initializer=_low_priority)
        # Not at low priority: an engine's threads inherit the niceness of the thread that makes it, and keep it.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bundle-loader")

    async def load(self, path: Path, life: Lifecycle, recalibrate: Callable[[EngineSpec], bool]) -> Loaded:
        """Check and load a bundle.

        Args:
            path: its directory.
            life: told where it is.
            recalibrate: called if the bundle's engine is for another machine and something is live meanwhile; makes
                another bundle for this machine, in the background, and returns true, or false if nobody can.

        Raises:
            BundleRefused: it may not serve; nothing stays loaded.
            Interrupted: something else is wanted; nothing stays loaded.
        """
        self._child.begin()
        self._interrupted.clear()
        checked = await self._read(check_bundle, path, life.to)
        if checked.manifest.bundle_id != life.bundle:
            raise BundleRefused(f"{path}: the directory holds bundle {checked.manifest.bundle_id}")
        spec, compiler = self._options.serve_with or checked.spec, self._options.compiler
        misfit = None if compiler is None else await self._read(compiler.misfit, checked, spec)
        if compiler is not None and misfit is not None:
            return await self._load_misfit(checked, life, compiler, misfit, recalibrate)
        own = _Way(spec)
        # Also where another engine takes its weights: a bundle that is no good must not cost what stands by.
        tried = await self._try(own, checked, life)
        twin = await self._twin(checked, spec)
        if twin is not None:
            try:
                return await self._load_by(_Way(spec, twin=twin), checked, life, spot=False)
            except EngineError as error:
                log.warning("refit_refused", bundle=life.bundle, reason=str(error))
            except Exception:
                # Whatever native code raised, the ordinary way is there.
                log.exception("refit_failed", bundle=life.bundle)
        return await self._load_by(own, checked, life, spot=tried)

    async def quietly(self, work: Callable[..., T], *given: object) -> T:
        """Run on the thread of low priority.

        Raises:
            Interrupted: the loader was closed before it began.
        """
        return await _waited_for(_submitted(self._checker, work, *given))

    async def _read(self, work: Callable[..., T], *given: object) -> T:
        """As `quietly`, and whoever is interrupted does not wait for a disk that hangs."""
        why = "given up, because something else is wanted"
        return await unless(self.quietly(work, *given), self._interrupted.wait(), Interrupted(why))

    def dispose(self, close: Callable[[], None]) -> None:
        """Close a bundle on the loader's thread: requests and the event loop do not wait for memory to be freed."""
        try:
            self._thread.submit(_closed, close)
        except RuntimeError:
            # The last loan ends after the loader.
            _closed(close)

    def interrupt(self) -> None:
        """End the load that is under way, unless only the engine itself is left to be loaded."""
        self._child.interrupt()
        self._interrupted.set()

    async def close(self) -> None:
        """End everything; bundles that are being closed are."""
        self._child.cancel()
        self._checker.shutdown(wait=False, cancel_futures=True)
        # What it still has to do is to close bundles; the interpreter would wait for it, too.
        await asyncio.to_thread(self._thread.shutdown)

    async def _load_misfit(
        self,
        checked: CheckedBundle,
        life: Lifecycle,
        compiler: LocalCompiler,
        misfit: Misfit,
        recalibrate: Callable[[EngineSpec], bool],
    ) -> Loaded:
        """By the first way that there is: compiled here before; a stand-in, if nothing is live; compiled here now."""
        spec = self._options.serve_with or checked.spec
        way = _Way(spec, compiled=misfit.place)
        log.warning("engine_of_another_machine", bundle=life.bundle, differs=misfit.why, compiled=misfit.compiled)
        if refused := misfit.compiled:
            try:
                await self._try(way, checked, life)
                # Another miner may replace it between the trial and the load.
                return await self._load_by(way, checked, life, spot=False)
            except BundleRefused as error:
                log.warning("compiled_engine_refused", bundle=life.bundle, reason=str(error))
        if not self._slot.generation:
            try:
                return await self._load_by(_Way(REFERENCE, stands_in=True), checked, life, spot=False)
            except BundleRefused as error:
                log.warning("stand_in_refused", bundle=life.bundle, reason=str(error))
        elif self._options.serve_with is None and recalibrate(spec):
            raise Postponed(f"{life.bundle}: {misfit.why}; it is compiled and calibrated anew for this machine")
        life.to(State.BUILDING)
        admit(COPIES_WHILE_BUILDING * checked.weights, self._options.memory())
        most = self._options.most
        await self.quietly(lambda: compiler.build(checked, spec, misfit, self._child, most=most, again=refused))
        await self._try(way, checked, life)
        return await self._load_by(way, checked, life, spot=False)

    async def _try(self, way: _Way, checked: CheckedBundle, life: Lifecycle) -> bool:
        """Load it in a process of its own, if something is live that a crash would take along; whether it was done."""
        options = self._options
        if not self._settings.trial or not self._slot.generation:
            return False
        if not fits(checked.weights, options.memory(), checked.pixels(options.most)):
            self._slot.release_standby()
        life.to(State.TRYING)
        await self.quietly(
            lambda: try_out(
                self._child,
                checked.directory,
                spec=way.spec,
                compiled=way.compiled,
                threads=options.threads,
                most=options.most,
            )
        )
        return True

    async def _load_by(self, way: _Way, checked: CheckedBundle, life: Lifecycle, *, spot: bool) -> Loaded:
        options = self._options
        if way.twin is None:
            self._child.check()
        # Not before the trial has shown that a better one is at hand, and never three engines in this process.
        self._slot.release_standby()
        try:
            loading = _submitted(
                self._thread,
                lambda: load_checked(
                    checked,
                    lambda: self._open(way, checked),
                    as_certified=way == _Way(checked.spec) and not options.elsewhere,
                    most=options.most,
                    spot=spot,
                    memory=options.memory if way.twin is None else lambda: None,
                    report=lambda state: _report(life, state),
                ),
            )
        except Interrupted:
            if way.twin is not None:
                way.twin.close()
            raise
        try:
            return Loaded(await _waited_for(loading), way.stands_in)
        except (asyncio.CancelledError, Interrupted):
            loading.add_done_callback(lambda done: _close_unwanted(done, way.twin))
            raise

    def _open(self, way: _Way, checked: CheckedBundle) -> Engine:
        model = checked.directory / ENGINE
        if way.twin is None:
            return self._options.opens(way.spec, model, compiled=way.compiled, threads=self._options.threads)
        way.twin.refit(model)
        return way.twin

    async def _twin(self, checked: CheckedBundle, spec: EngineSpec) -> Refittable | None:
        """The engine that stands by, out of the slot, if the weights of this bundle can be put into it."""
        idle = self._slot.standby
        if idle is None or not isinstance(idle.engine, Refittable) or idle.engine.describe().spec != spec:
            return None
        if not await self.quietly(idle.engine.takes, checked.directory / ENGINE) or not self._slot.take_standby(idle):
            return None
        self._on_taken(idle)
        return idle.engine


def _report(life: Lifecycle, state: State) -> None:
    """Go on, unless nobody waits for the bundle any more.

    Raises:
        Interrupted: it was refused while its engine was loaded.
    """
    try:
        life.to(state)
    except ValueError:
        if life.state is not State.REFUSED:
            raise
        raise Interrupted(CLOSED) from None


def _submitted(pool: ThreadPoolExecutor, work: Callable[..., T], *given: object) -> Future[T]:
    try:
        return pool.submit(work, *given)
    except RuntimeError:
        raise Interrupted(CLOSED) from None


async def _waited_for(future: Future[T]) -> T:
    """The result of a future. A pool that is shut down cancels what has not begun, which is no cancellation of ours."""
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if future.cancelled() and (task is None or not task.cancelling()):
            raise Interrupted(CLOSED) from None
        raise


def _closed(close: Callable[[], None]) -> None:
    try:
        close()
    except Exception:
        # The edge to native code: nobody waits for this, and what serves does not need it.
        log.exception("close_failed")


def _close_unwanted(loading: Future[LiveBundle], twin: Engine | None) -> None:
    """Close what was loaded for somebody who no longer waits for it."""
    error = None if loading.cancelled() else loading.exception()
    if not loading.cancelled() and error is None:
        _closed(loading.result().close)
    elif twin is not None:
        # It may have ended before the twin was an engine of its own.
        _closed(twin.close)
    if error is not None and not isinstance(error, EXPECTED):
        log.error("unwanted_load_failed", exc_info=error)


def _low_priority() -> None:
    # Who runs at a lower one already may not raise it.
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)

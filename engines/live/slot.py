"""The slot: holds the live bundle, lends it to requests, and replaces it under load."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from engines.errors import UnknownBundle

if TYPE_CHECKING:
    # Whoever loads bundles knows the slot, and not the other way round.
    from engines.live.load.load_bundle import LiveBundle


@dataclass(frozen=True)
class Live:
    """A bundle in its time as the live one.

    Attributes:
        generation: 1 for the first bundle, one more for each swap and each rollback.
        bundle: everything a request may use.
    """

    generation: int
    bundle: LiveBundle


@dataclass
class _Held:
    live: Live
    users: int = 0
    retired: bool = False


class Lease:
    """A loan of the live bundle; until it is released the bundle stays loaded. Ends with its `with` block, too.

    Attributes:
        generation: of the bundle when it was lent.
        bundle: everything the request may use.
    """

    __slots__ = ("_end", "_lock", "bundle", "generation")

    def __init__(self, live: Live, end: Callable[[], None]) -> None:
        self.generation, self.bundle = live.generation, live.bundle
        self._end: Callable[[], None] | None = end
        self._lock = threading.Lock()

    def release(self) -> None:
        """End the loan; again does nothing. From any thread."""
        with self._lock:
            end, self._end = self._end, None
        if end is not None:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class BundleSlot:
    """Lends the current bundle; a replaced one is closed when its last lease ends, unless it stands by.

    Args:
        on_closed: called after a bundle was closed.
        dispose: runs what it is given, somewhere; closing frees a lot of memory, which takes time that whoever ended
            the last loan may not have. By default it is run there and then.
        standby: keep the bundle that was live before loaded, so that a rollback takes no time. It costs the memory of
            one engine, which `release_standby` gives back.
    """

    def __init__(
        self,
        on_closed: Callable[[Live], None] | None = None,
        *,
        dispose: Callable[[Callable[[], None]], object] | None = None,
        standby: bool = False,
    ) -> None:
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._standby: _Held | None = None
        self._open: list[_Held] = []
        self._keep = standby
        self._changes = 0
        self._on_closed = on_closed
        self._dispose = dispose or (lambda close: close())

    @property
    def generation(self) -> int:
        """Generation of the live bundle, 0 if there is none."""
        held = self._held
        return 0 if held is None else held.live.generation

    @property
    def standby(self) -> LiveBundle | None:
        """The bundle that a rollback would make live, None if none stands by."""
        held = self._standby
        return None if held is None else held.live.bundle

    @property
    def leases(self) -> dict[int, int]:
        """Number of loans by generation, of every bundle that is not closed."""
        with self._lock:
            return {held.live.generation: held.users for held in self._open}

    def lease(self) -> Lease:
        """Borrow the live bundle for one request.

        Raises:
            UnknownBundle: nothing is live.
        """
        with self._lock:
            held = self._held
            if held is None:
                raise UnknownBundle("no bundle is live")
            held.users += 1
            live = held.live
        return Lease(live, lambda: self._give_back(held))

    def swap(self, bundle: LiveBundle) -> int:
        """Make a loaded bundle live; later leases get it, earlier ones keep theirs.

        Returns:
            The new generation.
        """
        with self._lock:
            old, out = self._held, self._standby
            self._changes = generation = self._changes + 1
            self._held = _Held(Live(generation, bundle))
            self._open.append(self._held)
            self._standby = old if self._keep else None
            gone = [held for held in (out, None if self._keep else old) if held is not None]
            for held in gone:
                held.retired = True
        for held in gone:
            self._close_if_unused(held)
        return generation

    def rollback(self) -> int:
        """Make the bundle that stands by live again; the one that was live stands by.

        Returns:
            The new generation.

        Raises:
            UnknownBundle: none stands by.
        """
        with self._lock:
            back, old = self._standby, self._held
            if back is None:
                raise UnknownBundle("no bundle stands by to roll back to")
            self._changes = generation = self._changes + 1
            back.live = Live(generation, back.live.bundle)
            self._held, self._standby = back, old
        return generation

    def take_standby(self, bundle: LiveBundle) -> bool:
        """Take the bundle that stands by out of the slot, for its engine; whoever takes it has to close it.

        Args:
            bundle: the one that is meant.

        Returns:
            Whether that one stood by, and no request was using it.
        """
        with self._lock:
            held = self._standby
            if held is None or held.live.bundle is not bundle or held.users:
                return False
            self._standby = None
            self._open.remove(held)
        return True

    def release_standby(self) -> None:
        """Close the bundle that stands by when its last lease ends; nothing if there is none."""
        with self._lock:
            out, self._standby = self._standby, None
            if out is not None:
                out.retired = True
        if out is not None:
            self._close_if_unused(out)

    def close(self) -> None:
        """Retire the live bundle and the one that stands by; each closes when its last lease ends."""
        with self._lock:
            gone = [held for held in (self._held, self._standby) if held is not None]
            self._held = self._standby = None
            for held in gone:
                held.retired = True
        for held in gone:
            self._close_if_unused(held)

    def _give_back(self, held: _Held) -> None:
        with self._lock:
            held.users -= 1
        self._close_if_unused(held)

    def _close_if_unused(self, held: _Held) -> None:
        with self._lock:
            if not held.retired or held.users:
                return
            held.retired = False
            self._open.remove(held)
        self._dispose(lambda: self._close(held.live))

    def _close(self, live: Live) -> None:
        try:
            live.bundle.close()
        finally:
            # Also of one that did not close as it should: it does not serve, and what holds it in the store must end.
            if self._on_closed is not None:
                self._on_closed(live)

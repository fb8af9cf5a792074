"""The slot: holds the live bundle, lends it to requests, and replaces it under load."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from engines.bundle import LiveBundle
from engines.errors import UnknownBundle


@dataclass(frozen=True)
class Lease:
    """A loan of the live bundle; while it lasts the bundle stays loaded.

    Attributes:
        generation: 1 for the first bundle, one more for each swap.
        bundle: everything the request may use.
    """

    generation: int
    bundle: LiveBundle


@dataclass
class _Held:
    lease: Lease
    users: int = 0
    retired: bool = False


class BundleSlot:
    """Lends the current bundle; a replaced one is closed when its last lease ends.

    Args:
        on_closed: called with a lease after its bundle was closed, on the thread that ended the last loan.
    """

    def __init__(self, on_closed: Callable[[Lease], None] | None = None) -> None:
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._swaps = 0
        self._on_closed = on_closed

    @property
    def generation(self) -> int:
        """Generation of the live bundle, 0 if there is none."""
        held = self._held
        return 0 if held is None else held.lease.generation

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """Borrow the live bundle for one request.

        Raises:
            UnknownBundle: nothing is live.
        """
        with self._lock:
            held = self._held
            if held is None:
                raise UnknownBundle("no bundle is live")
            held.users += 1
        try:
            yield held.lease
        finally:
            with self._lock:
                held.users -= 1
            self._close_if_unused(held)

    def swap(self, bundle: LiveBundle) -> int:
        """Make a loaded bundle live; later leases get it, earlier ones keep theirs.

        Returns:
            The new generation.
        """
        with self._lock:
            old = self._held
            self._swaps = generation = self._swaps + 1
            self._held = _Held(Lease(generation, bundle))
            if old is not None:
                old.retired = True
        if old is not None:
            self._close_if_unused(old)
        return generation

    def close(self) -> None:
        """Retire the live bundle; it closes when its last lease ends."""
        with self._lock:
            old, self._held = self._held, None
            if old is not None:
                old.retired = True
        if old is not None:
            self._close_if_unused(old)

    def _close_if_unused(self, held: _Held) -> None:
        with self._lock:
            if not held.retired or held.users:
                return
            held.retired = False
        held.lease.bundle.close()
        if self._on_closed is not None:
            self._on_closed(held.lease)

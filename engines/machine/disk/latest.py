"""What was read of a disk last, made anew by its thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from engines.machine.background_tasks import is_over
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.tally import Tally

T = TypeVar("T")


class Latest(Generic[T]):
    """The latest reading of something on a disk: whoever asks gets what there is, and never waits for the disk.

    Args:
        thread: reads.
        read: one reading; what it raises is told, and leaves the one before.
        first: before there is any.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, thread: DiskThread, read: Callable[[], T], first: T, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._thread = thread
        self._read = read
        self._clock = clock
        self._failed = Tally("not_read")
        # Replaced as a whole, so that a value and its time belong together for every thread.
        self._kept: tuple[T, float] = (first, clock())
        self._reading: Future[None] | None = None

    @property
    def value(self) -> T:
        """As it was read last."""
        return self._kept[0]

    @property
    def age_s(self) -> float:
        """Since that reading began, in seconds; without one, since this was made."""
        return max(0.0, self._clock() - self._kept[1])

    def begin(self) -> Future[None]:
        """Have it read anew; see `DiskThread.anew`."""
        self._reading = self._thread.anew(self._reading, self._look)
        return self._reading

    async def look(self, wait_s: float) -> T:
        """Read it anew, and return what there is after so many seconds.

        Args:
            wait_s: the longest wait.
        """
        if self._thread.hangs_s < wait_s:
            await is_over(self.begin(), wait_s)
        return self.value

    def _look(self) -> None:
        began = self._clock()
        try:
            self._kept = self._read(), began
        except Exception as error:  # noqa: BLE001  it is told, and the reading before stays, with its age
            self._failed.add(type(error).__name__, f"{self._thread.name}: {error}")

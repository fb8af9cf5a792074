"""Images on their way from the event loop to a thread that looks at them after their answers have left."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from engines.machine.disk.disk_thread import DiskThread
from engines.machine.tally import Tally
from miner.answering.record import SeenImage

# Each is some hundred kilobytes.
MOST_QUEUED = 64
# Longest wait for its disk when a miner ends.
CLOSE_S = 3.0


class ImageQueue:
    """A bounded queue and one thread; whatever fails in the thread is counted and told, and costs the next nothing.

    Args:
        name: of what it is for.
        take: looks at one image, in the thread.
        lost: counts what is not looked at, and what fails.
        after_s: after an image came, which its answer has left by then; those that came meanwhile are taken together.
        clock: monotonic time in seconds.

    Attributes:
        disk: the thread.
    """

    def __init__(
        self,
        name: str,
        take: Callable[[SeenImage], object],
        lost: Tally,
        *,
        after_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.disk = DiskThread(name, clock=clock)
        self._take = take
        self._lost = lost
        self._after_s = after_s
        self._queue: deque[SeenImage] = deque()
        self._called = self._closed = self._given_up = False

    def __len__(self) -> int:
        return len(self._queue) + self.disk.waiting

    def put(self, seen: SeenImage, *, reason: str, message: str) -> None:
        """Take an image in, from the event loop.

        Args:
            seen: the image.
            reason: what is counted if there is no room for it.
            message: what that means, for a person.
        """
        if len(self) >= MOST_QUEUED:
            self._lost.add(reason, message)
            return
        self._queue.append(seen)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_later(self._after_s, self.hand_over)

    def submit(self, work: Callable[[], object]) -> None:
        """Do something else in the thread; nothing any more once it is closed."""
        if self._closed:
            return
        done = self.disk.submit(partial(self._guarded, work))
        if done.done() and (error := done.exception()) is not None:
            # The machine has no thread left.
            self._lost.add(type(error).__name__, repr(error))

    def hand_over(self) -> None:
        """Give the thread what waits, each image by itself: one that takes long is told apart from many."""
        self._called = False
        # Whoever closes it may do so in another thread meanwhile.
        with contextlib.suppress(IndexError):
            while True:
                self.submit(partial(self._take, self._queue.popleft()))

    def close(self, last: Callable[[], object] | None = None, wait_s: float | None = None) -> None:
        """Look at what waits, do one thing more, and wait for both.

        Args:
            last: what else is to be done.
            wait_s: the longest wait, for a disk that hangs; what has not begun by then is lost. None waits for ever.
        """
        self.hand_over()
        if last is not None:
            self.submit(last)
        self._closed = True
        ended = self.disk.submit(lambda: None)
        concurrent.futures.wait([ended], timeout=wait_s)
        if not ended.done():
            self._given_up = True
            self._lost.add("not_closed", f"its disk has not answered for {wait_s} s; what waits for it is lost")

    def _guarded(self, work: Callable[[], object]) -> None:
        if self._given_up:
            # Another queue may have its disk by now.
            return
        try:
            work()
        except Exception as error:  # noqa: BLE001  it is counted and told
            # The edge to the disk: whatever fails here costs nobody an answer, and what was not written did not happen.
            self._lost.add(type(error).__name__, repr(error), error=None if isinstance(error, OSError) else error)

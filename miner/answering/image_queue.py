"""Images on their way from the event loop to a thread that looks at them after their answers have left."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from engines.machine.tally import Tally
from miner.answering.record import SeenImage

T = TypeVar("T")

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
        name: for a person.
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
        self.name = name
        self._clock = clock
        self._since: float | None = None
        self._take = take
        self._lost = lost
        self._after_s = after_s
        self._queue: deque[SeenImage] = deque()
        self._called = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name.replace(" ", "-"))

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def hangs_s(self) -> float:
        """How long what the thread does now has taken, in seconds; 0 while it does nothing."""
        since = self._since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    def put(self, seen: SeenImage, *, reason: str, message: str) -> None:
        """Take an image in, from the event loop.

        Args:
            seen: the image.
            reason: what is counted if there is no room for it.
            message: what that means, for a person.
        """
        if len(self._queue) >= MOST_QUEUED:
            self._lost.add(reason, message)
            return
        self._queue.append(seen)
        if not self._called:
            self._called = True
            asyncio.get_running_loop().call_later(self._after_s, self._call)

    def submit(self, work: Callable[[], object]) -> None:
        """Do something else in the thread; nothing any more once it is closed."""
        with contextlib.suppress(RuntimeError):
            self._pool.submit(self._guarded, work)

    def result_of(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do something in the thread that somebody on the event loop waits for."""
        return asyncio.get_running_loop().run_in_executor(self._pool, self._timed, work)

    def take_all(self) -> None:
        """Look at what waits, in the thread."""
        while self._queue:
            self._guarded(partial(self._take, self._queue.popleft()))

    def close(self, last: Callable[[], object] | None = None, wait_s: float | None = None) -> None:
        """Look at what waits, do one thing more, and wait for both.

        Args:
            last: what else is to be done.
            wait_s: the longest wait, for a disk that hangs; what has not begun by then is lost. None waits for ever.
        """
        self._call()
        if last is not None:
            self.submit(last)
        with contextlib.suppress(RuntimeError):
            ended = self._pool.submit(lambda: None)
            concurrent.futures.wait([ended], timeout=wait_s)
            if not ended.done():
                self._lost.add("not_closed", f"its disk has not answered for {wait_s} s; what waits for it is lost")
                self._pool.shutdown(wait=False, cancel_futures=True)
                return
        self._pool.shutdown(wait=True)

    def _call(self) -> None:
        self._called = False
        self.submit(self.take_all)

    def _timed(self, work: Callable[[], T]) -> T:
        # Work within other work, as an image of those that are taken together, begins anew.
        before, self._since = self._since, self._clock()
        try:
            return work()
        finally:
            self._since = before and self._clock()

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            self._timed(work)
        except Exception as error:  # noqa: BLE001  it is counted and told
            # The edge to the disk: whatever fails here costs nobody an answer, and what was not written did not happen.
            self._lost.add(type(error).__name__, repr(error), error=None if isinstance(error, OSError) else error)

"""A thread for what touches one disk: one that hangs, or is full, holds up this thread and nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from engines.machine.background_tasks import carry_out, start_thread

T = TypeVar("T")

# Without work for so long, the thread ends; the next piece of work begins another one.
IDLE_S = 5.0


class DiskThread:
    """Does pieces of work one after the other, in their order, away from the event loop.

    The end of the process does not wait for it.

    Args:
        name: of the disk, for a person.
        clock: monotonic time in seconds.
    """

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._clock = clock
        self._lock = threading.Lock()
        # A condition wakes the thread twice for each piece, and each answer of a miner waits for one.
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._since: float | None = None
        self._runs = False

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have something done; from any thread.

        Args:
            work: is called once, unless the future is cancelled before its turn.

        Returns:
            What it returns or raises; an OSError where the machine has no thread left.
        """
        result: Future[T] = Future()
        with self._lock:
            if not self._runs:
                try:
                    start_thread(self._work, f"disk of the {self.name}")
                except OSError as error:
                    result.set_exception(error)
                    return result
                self._runs = True
            self._queue.put(lambda: carry_out(work, result) if result.set_running_or_notify_cancel() else None)
        return result

    def anew(self, before: Future[T] | None, work: Callable[[], T]) -> Future[T]:
        """Have the same thing done again, unless the last time has not begun, which then does for both.

        One that is under way may have seen what was there before, so another one follows it.

        Args:
            before: the last time; None for the first.
            work: as in `submit`.
        """
        return self.submit(work) if before is None or before.running() or before.done() else before

    async def run(self, work: Callable[[], T]) -> T:
        """Have something done and wait for it, from the event loop; whoever waits no longer leaves it to the thread."""
        return await asyncio.wrap_future(self.submit(work))

    @property
    def hangs_s(self) -> float:
        """How long the disk has been waited for, in seconds; 0 while nothing is done."""
        since = self._since
        return 0.0 if since is None else max(0.0, self._clock() - since)

    @property
    def waiting(self) -> int:
        """Pieces of work that have not begun."""
        return self._queue.qsize()

    def _work(self) -> None:
        while True:
            try:
                run = self._queue.get(timeout=IDLE_S)
            except Empty:
                with self._lock:
                    # What came since then found a thread that runs.
                    if self._queue.empty():
                        self._runs = False
                        return
                continue
            self._since = self._clock()
            run()
            self._since = None


def said_yes(answer: Future[bool]) -> bool:
    """Whether a piece of work that is over was done and returned True; neither cancelled nor failed."""
    return not answer.cancelled() and answer.exception() is None and answer.result()

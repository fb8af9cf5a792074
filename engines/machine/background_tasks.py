"""Tasks that run beside whoever began them, and end with it."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


class BackgroundTasks:
    """Keeps tasks until they are done, because the event loop itself would forget them, and logs what they raise."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    def begin(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[object]:
        """Run it beside everything else; returns its task."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def cancel(self) -> list[asyncio.Task[object]]:
        """Cancel what runs; returns it, to be awaited."""
        running = list(self._running)
        for task in running:
            task.cancel()
        return running

    def _ended(self, task: asyncio.Task[object]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background_task_failed", exc_info=error)


class Once:
    """Begins a piece of work unless it is under way: one that waits for a disk is not begun again and again.

    Args:
        tasks: where it runs.
    """

    def __init__(self, tasks: BackgroundTasks) -> None:
        self._tasks = tasks
        self._task: asyncio.Task[object] | None = None

    def begin(self, work: Callable[[], Coroutine[Any, Any, object]]) -> asyncio.Task[object]:
        """Run it beside everything else, unless it runs; its task."""
        if self._task is None or self._task.done():
            self._task = self._tasks.begin(work())
        return self._task


async def unless(work: Coroutine[Any, Any, T], event: Coroutine[Any, Any, object], otherwise: Exception) -> T:
    """What a piece of work returns or raises, unless something else happens first.

    Args:
        work: is cancelled then.
        event: what may happen; cancelled when the work is over.
        otherwise: is raised where it happens first.
    """
    wanted, other = asyncio.ensure_future(work), asyncio.ensure_future(event)
    try:
        await asyncio.wait({wanted, other}, return_when=asyncio.FIRST_COMPLETED)
        if wanted.done():
            return wanted.result()
        raise otherwise
    finally:
        wanted.cancel()
        other.cancel()


def begun_in_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Run something that may hang in a thread that the end of the process does not wait for.

    Args:
        work: is run once.
        name: of the thread.

    Returns:
        What it returns or raises, to be awaited; an OSError where the machine has no thread left. Whoever waits no
        longer leaves the thread to itself.
    """
    result: Future[T] = Future()
    result.set_running_or_notify_cancel()
    try:
        start_thread(lambda: carry_out(work, result), name)
    except OSError as error:
        result.set_exception(error)
    return asyncio.wrap_future(result)


def start_thread(work: Callable[[], None], name: str) -> None:
    """Start a thread that the end of the process does not wait for.

    Raises:
        OSError: the machine has no thread left, a resource that it lacks at this moment.
    """
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, str(error)) from error


def carry_out(work: Callable[[], T], result: Future[T]) -> None:
    """Do a piece of work, and put into its future, which runs, what it returns or raises."""
    try:
        found = work()
    except BaseException as error:  # noqa: BLE001  whoever waits raises it, and would wait for ever without
        result.set_exception(error)
    else:
        result.set_result(found)


async def is_over(work: Future[Any], wait_s: float) -> bool:
    """Wait for a piece of work of a thread, and leave it to that thread after so long; whether it is over."""
    if not work.done():
        await asyncio.wait([asyncio.wrap_future(work)], timeout=max(0.0, wait_s))
    return work.done()

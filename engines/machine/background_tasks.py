"""Tasks that run beside whoever began them, and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


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

"""Tasks that run beside whoever began them, and end with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class BackgroundTasks:
    """Keeps tasks until they are done: the event loop itself would forget them."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[object]] = set()

    def begin(self, work: Coroutine[Any, Any, object]) -> None:
        """Run it beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def cancel(self) -> list[asyncio.Task[object]]:
        """Cancel what runs; returns it, to be awaited."""
        running = list(self._running)
        for task in running:
            task.cancel()
        return running

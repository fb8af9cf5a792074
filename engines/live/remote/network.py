"""An event loop on a thread of its own: the engines of a miner are called from threads, and servers from a loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from engines.errors import InferenceError

T = TypeVar("T")


class Network:
    """Runs coroutines for threads that wait for them."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="stage1-servers", daemon=True)
        self._thread.start()

    def begin(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Run it beside everything else.

        Raises:
            InferenceError: the network is closed.
        """
        try:
            return asyncio.run_coroutine_threadsafe(work, self.loop)
        except RuntimeError:
            work.close()
            raise InferenceError("the connections to the servers are closed") from None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it and wait for it; never from a coroutine of the network itself.

        Raises:
            InferenceError: the network is closed.
        """
        return self.begin(work).result()

    def close(self) -> None:
        """Cancel what runs, and end the thread; again does nothing."""
        if self.loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(_cancel_others(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)

"""What the process does on SIGTERM, SIGINT and SIGHUP."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

import structlog

from engines.live.swap.follower import StoreFollower
from engines.machine.background_tasks import BackgroundTasks
from miner.reload import SettingsReload
from stage1.errors import CascadeError

log = structlog.get_logger(__name__)

# A stop takes no longer, beside the time for the requests in flight: what is closed may hang, and a service manager
# kills without a word.
CLOSE_S = 1.8


def stop_before_ready(stop: asyncio.Event, on_stop: Callable[[], object]) -> None:
    """SIGTERM cancels this task, and SIGHUP finds nothing to reload; by default it would end the process.

    Args:
        stop: set with the first SIGTERM.
        on_stop: called with it.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def give_up() -> None:
        # A second one must not cut short what the first one began to close.
        if not stop.is_set():
            stop.set()
            on_stop()
            task.cancel()

    loop.add_signal_handler(signal.SIGTERM, give_up)
    loop.add_signal_handler(signal.SIGHUP, log.info, "nothing_to_reload_yet")


def stop_or_reload(stop: asyncio.Event, follower: StoreFollower, settings: SettingsReload) -> BackgroundTasks:
    """SIGTERM and SIGINT stop, SIGHUP reads the settings and looks at the store.

    Args:
        stop: set to stop.
        follower: of the store.
        settings: reads them.

    Returns:
        The reloads that are under way.
    """
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    reloads, one_at_a_time, waiting = BackgroundTasks(), asyncio.Lock(), asyncio.Event()

    async def reload() -> None:
        async with one_at_a_time:
            waiting.clear()
            await settings.again()
        # To compile a bundle may take minutes, for which other settings need not wait.
        await follower.reload()

    def on_hangup() -> None:
        # One that waits for its turn reads then what there is then.
        if not waiting.is_set():
            waiting.set()
            reloads.begin(reload())

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    return reloads


def leave_after(drain_s: float, error: BaseException | None = None) -> None:
    """End this process, if it has not ended by then; for whoever owns it, when a stop begins.

    Whoever was let in has been answered by then. What is lost is what a disk that hangs would not take.

    Args:
        drain_s: for the requests in flight.
        error: why it ends; None for a stop that somebody wanted.
    """
    seconds = drain_s + CLOSE_S
    status = 0 if error is None else error.exit_status if isinstance(error, CascadeError) else 1
    timer = threading.Timer(seconds, _leave, [seconds, status])
    # Whatever ends before it ends it.
    timer.daemon = True
    timer.start()


def _leave(seconds: float, status: int) -> None:
    log.error("stop_cut_short", after_s=seconds, threads=sorted(thread.name for thread in threading.enumerate()))
    logging.shutdown()
    os._exit(status)

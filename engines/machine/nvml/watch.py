"""Watching the GPUs: the lines of the process that asks the driver, and how old the last one is."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import structlog
from pydantic import ValidationError

from engines.machine.child import END_S
from engines.machine.gpu import ask_driver
from engines.machine.nvml.health import GpuHealth

log = structlog.get_logger(__name__)

READER = (sys.executable, "-m", "engines.machine.nvml.reader_process")
# Without a line for so long the driver counts as silent; a reading of eight GPUs takes a second at most.
SILENT_S = 30.0
# After a process that ended by itself.
AGAIN_S = 60.0
ONCE_S = 20.0
MOST_BYTES = 2**20
# What the kernel's module says of itself, also where nothing else is installed.
MODULE = Path("/proc/driver/nvidia/version")


def can_watch() -> bool:
    """Whether the binding of the management library is installed; does not import it."""
    return importlib.util.find_spec("pynvml") is not None


class GpuWatch:
    """Keeps the latest reading of the GPUs, as long as this context is open; asking for it costs nothing.

    Args:
        reader: command line of the process that reads.
        clock: monotonic time in seconds.
        silent_s: without a line for so long, the driver counts as silent.
        again_s: time between two starts of the process.
    """

    def __init__(
        self,
        reader: Sequence[str] = READER,
        *,
        clock: Callable[[], float] = time.monotonic,
        silent_s: float = SILENT_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._reader = tuple(reader)
        self._clock = clock
        self._silent_s = silent_s
        self._again_s = again_s
        self._latest = GpuHealth()
        self._heard_at = clock()
        self._asked_at = clock()
        self._ended = ""
        self._process: Process | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="watch the GPUs")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        # It may have been cancelled while it waited for the end of a process.
        await self._close()

    def health(self) -> GpuHealth:
        """The latest reading; with how long the driver has been silent, if it is, or why nobody asks it."""
        now = self._clock()
        if self._latest.problem or now - self._heard_at <= self._silent_s:
            return self._latest
        if self._ended:
            # That a process ended says nothing of the driver.
            return GpuHealth(driver=self._latest.driver, problem=self._ended)
        silent_s = now - max(self._heard_at, self._asked_at)
        if silent_s <= self._silent_s:
            return self._latest
        return self._latest.model_copy(update={"silent_s": round(silent_s, 1)})

    async def _run(self) -> None:
        """Read until cancelled, or until there turns out to be nothing to read."""
        while True:
            try:
                await self._lines()
            # A line that is too long is a ValueError.
            except (OSError, ValueError) as error:
                self._ended = f"the driver cannot be asked: {error}"
            finally:
                await self._close()
            if self._latest.problem:
                log.info("gpu_not_watched", reason=self._latest.problem)
                return
            log.warning("gpu_watch_failed", reason=self._ended)
            await asyncio.sleep(self._again_s)

    async def _lines(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._reader, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, limit=MOST_BYTES, start_new_session=True
        )
        self._asked_at, self._ended = self._clock(), ""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            try:
                self._latest = GpuHealth.model_validate_json(line)
            except ValidationError as error:
                log.warning("gpu_reading_not_understood", reason=str(error.errors()[0]["msg"]))
                continue
            self._heard_at = self._clock()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await self._process.wait()
        self._ended = f"asking the driver ended with status {self._process.returncode}"

    async def _close(self) -> None:
        process = self._process
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # One that is in the driver may not end before the driver does. What is left in its pipe is read, or the pipe
        # would stay open.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await process.communicate()
        self._process = None


def read_once(reader: Sequence[str] = READER, timeout_s: float = ONCE_S) -> GpuHealth:
    """One reading; whatever happens to the process that reads, this one goes on.

    Args:
        reader: command line of the process.
        timeout_s: after which the driver counts as silent.
    """
    try:
        told = ask_driver([*reader, "--once"], timeout_s)
    except OSError as error:
        return GpuHealth(driver=module_version(), problem=f"the driver cannot be asked: {error}")
    if told is None:
        return GpuHealth(driver=module_version(), silent_s=timeout_s)
    try:
        return GpuHealth.model_validate_json(told.stdout)
    except ValidationError:
        return GpuHealth(driver=module_version(), problem=f"asking the driver ended with status {told.returncode}")


def module_version(read: Callable[[Path], str] = Path.read_text) -> str:
    """Version of NVIDIA's kernel module, such as `580.65.06`; empty where none is loaded.

    Args:
        read: reads a file of the kernel.
    """
    try:
        first = read(MODULE).splitlines()[0]
    except (OSError, IndexError):
        return ""
    # NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (...)
    return next((word for word in first.split() if word[:1].isdigit() and "." in word), "")

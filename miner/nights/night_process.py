"""One process of a night, from its start until it and everything that it started has ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from miner.nights.limited_process import NOT_STARTED, limited
from miner.nights.output import LONGEST_LINE, NightOutput
from miner.nights.processes import VARIABLE, ProcessMark, end_processes, mark_of

log = structlog.get_logger(__name__)

GRACE_S = 5.0
# What it said last, once nobody is left who could say more.
LAST_WORDS_S = 1.0
CHUNK = 2**16


@dataclass(frozen=True)
class Bounds:
    """What a process of a night may take.

    Attributes:
        niceness: 0 to 19.
        memory: most memory that one of its processes may write, bytes; None for no bound.
        seconds: after so long it is ended.
    """

    niceness: int
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        status: exit status, negative for a signal.
        timed_out: it was ended because its time was up.
    """

    status: int
    timed_out: bool = False


async def run_process(
    command: Sequence[str],
    token: str,
    bounds: Bounds,
    output: NightOutput,
    on_start: Callable[[ProcessMark], Awaitable[object]] | None = None,
) -> Ended:
    """Run a command to its end; if this is cancelled, end it with all that it started.

    The process leads a session of its own, and dies with this one where the system can see to that.

    Args:
        command: program and arguments.
        token: that its environment is to carry; see `miner.nights.processes`.
        bounds: what it may take.
        output: takes what it says.
        on_start: told which process it is; what it raises ends the process.
    """
    read, write = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *limited(command, niceness=bounds.niceness, memory=bounds.memory),
            stdin=DEVNULL,
            stdout=write,
            stderr=write,
            start_new_session=True,
            env=os.environ | {VARIABLE: token},
        )
    except BaseException as error:
        os.close(read)
        if not isinstance(error, OSError):
            raise
        output.take(f"cascade: it cannot be started: {error}")
        return Ended(NOT_STARTED)
    finally:
        os.close(write)
    listener = asyncio.create_task(_listen(read, output))
    try:
        async with asyncio.timeout(bounds.seconds):
            if on_start is not None:
                await on_start(mark_of(process.pid))
            return Ended(await process.wait())
    except TimeoutError:
        await _end(process, token)
        return Ended(process.returncode or -signal.SIGKILL, timed_out=True)
    finally:
        # Cancelled or not: what it leaves behind would hold memory, a GPU and this pipe.
        await asyncio.shield(_end(process, token))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS_S):
                await listener


async def _end(process: asyncio.subprocess.Process, token: str) -> None:
    """TERM to all of it, then KILL to what is left."""
    await end_processes(token, GRACE_S)
    if process.returncode is None:
        # Where the system does not tell which processes there are.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(GRACE_S):
            await process.wait()


async def _listen(descriptor: int, output: NightOutput) -> None:
    """Hand on lines until nobody holds the other end any more."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb", 0)
    )
    begun = b""
    try:
        while chunk := await reader.read(CHUNK):
            *lines, begun = (begun + chunk).split(b"\n")
            for line in lines:
                output.take(line.decode(errors="replace"))
            # A bar that is drawn anew for hours is one line.
            begun = begun[-LONGEST_LINE:]
    finally:
        if begun:
            output.take(begun.decode(errors="replace"))
        transport.close()

"""Work that native code may crash in, or not come back from, in a process of its own and at low priority."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog
import typer

from engines.errors import BundleRefused, EngineError, Interrupted
from engines.machine.bounds import end_with_parent
from stage1.errors import Stage1Error

NICENESS = 10
REFUSED = 3
TIMEOUT_S = 600.0
# A process that was killed is waited for so long, and it is seen so soon that it has ended or is not wanted any more.
END_S, LOOK_S = 1.0, 0.25
IN_THE_DRIVER = "it was killed and does not end: look at dmesg for the driver; a restart frees what it holds"

log = structlog.get_logger(__name__)


class Child:
    """Runs modules, one at a time, for a piece of work that another thread can interrupt, also between two of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._interrupted = threading.Event()
        self._cancelled = threading.Event()

    def begin(self) -> None:
        """Begin another piece of work: what was interrupted before does not concern it."""
        self._interrupted.clear()

    def check(self) -> None:
        """Make sure that the piece of work is still wanted.

        Raises:
            Interrupted: it is not.
        """
        if self._unwanted:
            raise Interrupted("given up, because something else is wanted")

    def run(self, module: str, arguments: Sequence[str], *, doing: str, timeout_s: float = TIMEOUT_S) -> None:
        """Run a module and wait for its end.

        Args:
            module: its name; its last line of output is the reason if it refuses.
            arguments: its command line.
            doing: what it does, for messages.
            timeout_s: after so long it has failed.

        Raises:
            BundleRefused: it said so, crashed or took too long.
            Interrupted: the piece of work is not wanted any more.
            OSError: it cannot be started.
        """
        self.check()
        # What a crash leaves in the output need not be text.
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TYPER_STANDARD_TRACEBACK": "1"},
        )
        self._process = process
        try:
            said = self._output(process, time.monotonic() + timeout_s)
        finally:
            self._process = None
            if not end(process):
                log.error("child_left_behind", doing=doing, pid=process.pid, advice=IN_THE_DRIVER)
        self.check()
        if said is None:
            raise BundleRefused(f"{doing} took over {timeout_s:.0f} s")
        if process.returncode:
            raise BundleRefused(_reason(process.returncode, said.decode(errors="replace"), doing))

    def interrupt(self) -> None:
        """End the piece of work that is under way, wherever it is."""
        self._interrupted.set()
        self._end()

    def cancel(self) -> None:
        """End it and every later one."""
        self._cancelled.set()
        self._end()

    def _output(self, process: subprocess.Popen[bytes], until: float) -> bytes | None:
        """All that it writes until it ends; None if it takes too long or is not wanted any more."""
        while not self._unwanted and (left := until - time.monotonic()) > 0:
            ended = process.poll() is not None
            try:
                return process.communicate(timeout=min(LOOK_S, left))[0]
            except subprocess.TimeoutExpired as error:
                # A process that it began may have its output open still.
                if ended:
                    return error.output or b""
        return None

    @property
    def _unwanted(self) -> bool:
        return self._interrupted.is_set() or self._cancelled.is_set()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            process.kill()


def end(process: subprocess.Popen[Any]) -> bool:
    """Kill a process and close its pipes, and wait a moment for its end; whether it has ended.

    One that is in the driver may not end before the driver does. It is left behind then, and what it holds with it.
    """
    process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(END_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return process.returncode is not None


def _reason(code: int, said: str, doing: str) -> str:
    last = said.strip().splitlines()[-1] if said.strip() else "it said nothing"
    if code == REFUSED:
        return last
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"{doing} {how}: {last}"


def answer(work: Callable[[], None]) -> None:
    """What such a module does: its work at low priority, and a refusal as one line and a status of its own.

    Args:
        work: raises an `EngineError` or `Stage1Error` to refuse.
    """
    os.nice(NICENESS)
    end_with_parent()
    try:
        work()
    except (EngineError, Stage1Error) as error:
        typer.echo(" ".join(str(error).split()))
        raise SystemExit(REFUSED) from None

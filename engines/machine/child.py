"""Work that native code may crash in, in a process of its own and at low priority."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import typer

from engines.errors import BundleRefused, EngineError, Interrupted
from engines.machine.bounds import end_with_parent
from stage1.errors import Stage1Error

NICENESS = 10
REFUSED = 3
TIMEOUT_S = 600.0


class Child:
    """Runs modules, one at a time, for a piece of work that another thread can interrupt, also between two of them."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
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
        """
        self.check()
        # What a crash leaves in the output need not be text.
        with subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=os.environ | {"TYPER_STANDARD_TRACEBACK": "1"},
        ) as process:
            self._process = process
            if self._unwanted:
                process.kill()
            try:
                said, _ = process.communicate(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise BundleRefused(f"{doing} took over {timeout_s:.0f} s") from None
            finally:
                self._process = None
        self.check()
        if process.returncode:
            raise BundleRefused(_reason(process.returncode, said, doing))

    def interrupt(self) -> None:
        """End the piece of work that is under way, wherever it is."""
        self._interrupted.set()
        self._end()

    def cancel(self) -> None:
        """End it and every later one."""
        self._cancelled.set()
        self._end()

    @property
    def _unwanted(self) -> bool:
        return self._interrupted.is_set() or self._cancelled.is_set()

    def _end(self) -> None:
        process = self._process
        if process is not None:
            process.kill()


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

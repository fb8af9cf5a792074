"""Work that native code may crash in, in a process of its own and at low priority."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import typer

from engines.errors import BundleRefused, EngineError
from stage1.errors import Stage1Error

NICENESS = 10
REFUSED = 3
TIMEOUT_S = 600.0


class Child:
    """Runs modules, one at a time; `interrupt` and `cancel` end the running one from another thread.

    Args:
        timeout_s: after so long it has failed.
    """

    def __init__(self, *, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = threading.Event()

    def run(self, module: str, arguments: Sequence[str], *, doing: str) -> None:
        """Run a module and wait for its end.

        Args:
            module: its name; its last line of output is the reason if it is refused.
            arguments: its command line.
            doing: what it does, for messages.

        Raises:
            BundleRefused: it said so, crashed or took too long, or was ended.
        """
        # What a crash leaves in the output need not be text.
        with subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            self._process = process
            if self._cancelled.is_set():
                process.kill()
            try:
                said, _ = process.communicate(timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                raise BundleRefused(f"{doing} took over {self._timeout_s:.0f} s") from None
            finally:
                self._process = None
        if process.returncode:
            raise BundleRefused(_reason(process.returncode, said, doing))

    def interrupt(self) -> None:
        """End the running process, if there is one."""
        process = self._process
        if process is not None:
            process.kill()

    def cancel(self) -> None:
        """End the running process and every later one."""
        self._cancelled.set()
        self.interrupt()


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
    try:
        work()
    except (EngineError, Stage1Error) as error:
        typer.echo(" ".join(str(error).split()))
        raise SystemExit(REFUSED) from None

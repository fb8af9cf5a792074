"""Loads a bundle in a process of its own first: native code that crashes on it does not take the miner along.

The child runs at low priority and does all that loading does, with every golden image at every batch size.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import typer

from engines.engine import EngineSpec
from engines.errors import BundleRefused, EngineError
from stage1.errors import Stage1Error

NICENESS = 10
REFUSED = 3
TIMEOUT_S = 600.0


class Trial:
    """Trials of bundles, one at a time; `cancel` ends the running one from another thread.

    Args:
        spec: another engine than the one that was certified; None for that one.
        threads: intra-op threads of the engine; None for all cores.
        most: largest batch that will be asked of it.
        timeout_s: after so long a trial has failed.
    """

    def __init__(
        self, *, spec: EngineSpec | None = None, threads: int | None, most: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._spec = spec
        self._threads = threads
        self._most = most
        self._timeout_s = timeout_s
        self._child: subprocess.Popen[str] | None = None
        self._cancelled = threading.Event()

    def run(self, directory: Path) -> None:
        """Load a bundle and throw it away.

        Raises:
            BundleRefused: it was refused, the child crashed or took too long, or the trial was cancelled.
        """
        command = [sys.executable, "-m", "engines.trial", str(directory), "--most", str(self._most)]
        command += [] if self._threads is None else ["--threads", str(self._threads)]
        command += [] if self._spec is None else ["--spec", self._spec.model_dump_json()]
        # What a crash leaves in the output need not be text.
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as child:
            self._child = child
            if self._cancelled.is_set():
                child.kill()
            try:
                said, _ = child.communicate(timeout=self._timeout_s)
            except subprocess.TimeoutExpired:
                child.kill()
                child.communicate()
                raise BundleRefused(
                    f"{directory.name}: loading it on trial took over {self._timeout_s:.0f} s"
                ) from None
            finally:
                self._child = None
        if child.returncode:
            raise BundleRefused(f"{directory.name}: {_reason(child.returncode, said)}")

    def interrupt(self) -> None:
        """End the running trial, if there is one."""
        child = self._child
        if child is not None:
            child.kill()

    def cancel(self) -> None:
        """End the running trial and every later one."""
        self._cancelled.set()
        self.interrupt()


def _reason(code: int, said: str) -> str:
    last = said.strip().splitlines()[-1] if said.strip() else "it said nothing"
    if code == REFUSED:
        return last
    how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
    return f"the process that loaded it on trial {how}: {last}"


def main(directory: Path, *, most: int = 1, threads: int | None = None, spec: str | None = None) -> None:
    """Load the bundle in DIRECTORY, and say why it is refused if it is."""
    os.nice(NICENESS)
    from engines.loading import load_bundle  # noqa: PLC0415  at low priority, too

    try:
        chosen = None if spec is None else EngineSpec.model_validate_json(spec)
        load_bundle(directory, spec=chosen, threads=threads, most=most).close()
    except (EngineError, Stage1Error) as error:
        typer.echo(" ".join(str(error).removeprefix(f"{directory.name}: ").split()))
        raise SystemExit(REFUSED) from None


if __name__ == "__main__":
    typer.run(main)

"""Runs of the pipeline in child processes of the demo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from miner.errors import StartError
from miner.progress_display import RunDisplay
from miner.simulation.processes import last_line

PRESET = "tiny"
# For the checkpoint of a training that is told to end.
ENDS_S = 15.0


def as_flags(changes: dict[str, Any]) -> list[str]:
    """`--set` flags for a child of this program."""
    return [flag for key, value in changes.items() for flag in ("--set", f"{key}={json.dumps(value, default=str)}")]


class RetrainChildren:
    """Runs `cascade retrain` in children, from several threads; as a context, none is left behind by what ends it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Whoever pressed Ctrl-C does not wait for a training that nobody wants any more.
            self._ended = True
            children = tuple(self._running)
            for child in children:
                child.terminate()
            for child in children:
                try:
                    child.wait(ENDS_S)
                except subprocess.TimeoutExpired:
                    child.kill()

    def run(
        self,
        data: Path,
        workspace: Path,
        store: Path,
        mode: str | None,
        changes: dict[str, Any],
        shown: RunDisplay,
        log: Path,
        *,
        threads: int | None,
    ) -> Path:
        """Run one on `threads` CPU threads, None for all cores, and show its progress.

        Returns:
            The run's directory.

        Raises:
            StartError: the child failed; its messages are in `log`.
        """
        command = [sys.executable, "-m", "miner.cli", "retrain", "--progress", "json", "--preset", PRESET]
        command += ["--data", str(data), "--workspace", str(workspace), "--store", str(store), *as_flags(changes)]
        command += [] if mode is None else ["--mode", mode]
        command += [] if threads is None else ["--threads", str(threads)]
        with (
            log.open("ab") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child,
        ):
            assert child.stdout is not None
            self._running.add(child)
            if self._ended:
                child.terminate()
            run = ""
            for line in child.stdout:
                record = json.loads(line)
                if "run" in record:
                    run = record["run"]
                elif "stage" in record:
                    shown.stage(record["stage"], record["state"])
                elif "done" in record:
                    shown.step(record["done"], record["total"], record["note"])
        self._running.discard(child)
        if child.returncode != 0:
            raise StartError(f"retraining failed with status {child.returncode}: {last_line(log)} (whole log: {log})")
        return Path(run)

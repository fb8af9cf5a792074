"""A run of the pipeline in a child process of the demo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from miner.errors import StartError
from miner.progress_display import RunDisplay
from miner.simulation.processes import last_line

PRESET = "tiny"


def as_flags(changes: dict[str, Any]) -> list[str]:
    """`--set` flags for a child of this program."""
    return [flag for key, value in changes.items() for flag in ("--set", f"{key}={json.dumps(value, default=str)}")]


def retrain_child(
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
    """Run `cascade retrain` in a child on `threads` CPU threads, None for all cores, and show its progress.

    Returns:
        The run's directory.

    Raises:
        StartError: the child failed; its messages are in `log`.
    """
    command = [sys.executable, "-m", "miner.cli", "retrain", "--progress", "json", "--preset", PRESET]
    command += ["--data", str(data), "--workspace", str(workspace), "--store", str(store), *as_flags(changes)]
    command += [] if mode is None else ["--mode", mode]
    command += [] if threads is None else ["--threads", str(threads)]
    with log.open("ab") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as child:
        assert child.stdout is not None
        run = ""
        for line in child.stdout:
            record = json.loads(line)
            if "run" in record:
                run = record["run"]
            elif "stage" in record:
                shown.stage(record["stage"], record["state"])
            elif "done" in record:
                shown.step(record["done"], record["total"], record["note"])
    if child.returncode != 0:
        raise StartError(f"retraining failed with status {child.returncode}: {last_line(log)} (whole log: {log})")
    return Path(run)

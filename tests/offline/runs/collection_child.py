"""Collects in a process of its own, killed at each of its changes on the file system.

    collection_child.py PREPARED HOMES KEEP DAY

PREPARED holds a workspace and a store; it is copied to HOMES/1, HOMES/2, ... until a collection comes to its end.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from engines.store.store import Store
from offline.publish.settings import GateSettings
from offline.runs.collection import collect

CHANGES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def collected(home: Path, keep: int, day: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
    collect(home / "workspace", Store(home / "store"), GateSettings(keep=keep), now)


def killed_at(step: int, home: Path, keep: int, day: int) -> bool:
    """Whether it was killed just before its `step`-th change."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, _arguments: object) -> None:
            nonlocal left
            left -= event in CHANGES
            if left == 0 and event in CHANGES:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        outcome = 1
        try:
            collected(home, keep, day)
            outcome = 0
        finally:
            os._exit(outcome)
    _, status = os.waitpid(child, 0)
    if status not in {0, signal.SIGKILL}:
        raise SystemExit(f"the child of step {step} failed with {status}")
    return status == signal.SIGKILL


def main(prepared: str, homes: str, keep: str, day: str) -> None:
    for step in itertools.count(1):
        home = Path(homes) / str(step)
        shutil.copytree(prepared, home)
        if not killed_at(step, home, int(keep), int(day)):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])

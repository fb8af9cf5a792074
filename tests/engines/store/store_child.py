"""Works on a store in a process of its own: killed at each of its steps on the file system, or beside others.

    store_child.py killed publish|activate FILES PREPARED ROOTS
    store_child.py beside FILES ROOT

`killed` copies the prepared store to ROOTS/1, ROOTS/2, ... and does the work in each in a forked child that is killed
at its first, second, ... step, until one comes to its end. `beside` publishes and activates every directory of FILES.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from engines.store.bundle import Provenance
from engines.store.store import Store

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PROVENANCE = Provenance(run="child", created_at=NOW.isoformat(), code_version="test", data_sha256="d" * 64)
STEPS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.copyfile"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def changes(event: str, arguments: tuple[object, ...]) -> bool:
    """Whether what an audit hook is told of changes a file; a kill before a mere look leaves nothing new."""
    if event == "open":
        flags = arguments[2]
        return isinstance(flags, int) and bool(flags & WRITES)
    return event in STEPS


def killed_at(step: int, work: Callable[[], object]) -> bool:
    """Do the work in a child that is killed before its `step`-th change; False if it came to its end first."""
    child = os.fork()
    if child == 0:
        left = step

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if changes(event, arguments):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        outcome = 1
        try:
            work()
            outcome = 0
        finally:
            # Never the usual way out: ONNX Runtime's threads did not survive the fork.
            os._exit(outcome)
    _, status = os.waitpid(child, 0)
    if status not in {0, signal.SIGKILL}:
        raise SystemExit(f"the child of step {step} failed with {status}")
    return status == signal.SIGKILL


def killed(what: str, files: Path, prepared: Path, roots: Path) -> None:
    step, again = 0, True
    while again:
        step += 1
        root = roots / str(step)
        shutil.copytree(prepared, root)
        store = Store(root)
        newest = max(store.bundles(), key=lambda row: row.manifest.provenance.created_at, default=None)

        def work(store: Store = store, bundle: str = "" if newest is None else newest.manifest.bundle_id) -> object:
            return store.publish(files, PROVENANCE) if what == "publish" else store.activate(bundle, now=NOW)

        again = killed_at(step, work)


def beside(files: Path, root: Path) -> None:
    store = Store(root)
    for directory in sorted(files.iterdir()):
        store.activate(store.publish(directory, PROVENANCE), now=NOW)


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    if mode == "killed":
        killed(arguments[0], *(Path(path) for path in arguments[1:]))
    else:
        beside(*(Path(path) for path in arguments))

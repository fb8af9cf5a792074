"""Says where the event loop touches a disk: calls that may hang with it, by whoever runs on the loop's thread.

`python -m tests.support.loop_guard DIRECTORY FILE COMMAND...` runs `cascade COMMAND...` and writes each such call on
something below the directory into the file, a line of JSON each, from the file `FILE.on` being there on.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Those of CPython that have an audit event and may hang with a disk; `os.stat` and its like have none.
EVENTS = frozenset(
    {
        "open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
        "os.truncate", "os.utime", "os.chmod", "fcntl.flock", "fcntl.lockf", "sqlite3.connect", "socket.getaddrinfo",
        "socket.gethostbyname",
    }
)  # fmt: skip
CALLS = ("stat", "lstat", "statvfs", "access", "fstat", "fsync", "pread", "pwrite", "readlink")
OURS = Path(__file__).resolve().parents[2]


class LoopGuard:
    """Tells of calls on the thread of a running event loop.

    Args:
        below: directory whose disk may hang; what names no path counts too.
        found: told the call, what it is on, and who makes it.
        on: whether anything is told yet.
    """

    def __init__(
        self, below: Path, found: Callable[[str, str, str], object], on: Callable[[], bool] = lambda: True
    ) -> None:
        self._below = str(below.resolve())
        self._found = found
        self._on = on
        self._busy = False

    def begin(self) -> None:
        """For good: an audit hook cannot be taken back."""
        for name in CALLS:
            setattr(os, name, self._told(name, getattr(os, name)))
        sys.addaudithook(lambda event, given: self._look(event, given) if event in EVENTS else None)

    def _told(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def told(*given: Any, **named: Any) -> Any:
            self._look(f"os.{name}", given)
            return call(*given, **named)

        return told

    def _look(self, event: str, given: tuple[Any, ...]) -> None:
        if self._busy or asyncio._get_running_loop() is None:
            return
        self._busy = True
        try:
            on = self._path(given[0] if given else None)
            if on is not None and self._on():
                self._found(event, on, _caller())
        finally:
            self._busy = False

    def _path(self, what: object) -> str | None:
        """The path, if it is one that may hang."""
        if isinstance(what, int) and not isinstance(what, bool):
            try:
                what = os.readlink(f"/proc/self/fd/{what}")  # noqa: PTH115  what is looked at is `os`
            except OSError:
                return None
        if isinstance(what, bytes):
            what = os.fsdecode(what)
        if not isinstance(what, str | os.PathLike):
            return None
        path = os.path.abspath(os.fspath(what))  # noqa: PTH100  without a look at the disk
        return path if path.startswith(self._below) else None


def _caller() -> str:
    """The frames of this program, the innermost first."""
    frames = [
        f for f in traceback.extract_stack() if f.filename.startswith(str(OURS)) and "loop_guard" not in f.filename
    ]
    return " < ".join(f"{Path(f.filename).relative_to(OURS)}:{f.lineno} {f.name}" for f in reversed(frames))


def main(arguments: list[str]) -> None:
    """Run a command of `cascade` and write down what its loop touches."""
    below, file, *words = arguments
    on = Path(f"{file}.on")
    out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def found(event: str, path: str, caller: str) -> None:
        os.write(out, (json.dumps({"call": event, "on": path, "by": caller}) + "\n").encode())

    exists = os.path.exists
    LoopGuard(Path(below), found, lambda: exists(on)).begin()
    from miner.cli.main import app  # noqa: PLC0415  after the hook

    app(words)


if __name__ == "__main__":
    main(sys.argv[1:])

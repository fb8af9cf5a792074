"""What a night says: every line into a file of its own, and what it says for programs into the log of the miner."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import structlog
from pydantic import JsonValue

from engines.machine.disk.disk_thread import DiskThread

log = structlog.get_logger(__name__)

MAX_BYTES, KEPT_FILES = 4 * 2**20, 1
LAST_LINES = 20
LONGEST_LINE = 4096
# Lines that the disk has not taken yet.
MOST_WAITING = 10_000
TOLD_LOUD = {"warning": "warning", "error": "error", "critical": "error"}


class NightOutput:
    """Takes the lines of a night.

    Args:
        path: of the file; when it is full it is put aside as `.1`, and the one before that is removed.
        disk: writes it.
    """

    def __init__(self, path: Path, disk: DiskThread) -> None:
        self._path = path
        self._disk = disk
        self._file: _Quiet | None = None
        self._last: deque[str] = deque(maxlen=LAST_LINES)
        self._at: dict[str, JsonValue] = {}

    @property
    def progress(self) -> dict[str, JsonValue]:
        """How far it is: `stage`, `done`, `total` and `note`, as far as it has said so."""
        return dict(self._at)

    @property
    def last_words(self) -> str:
        """The last line that was not for a program, without the name of the command."""
        return self._last[-1].removeprefix("cascade: ") if self._last else ""

    def take(self, line: str) -> None:
        """Take a line without its end."""
        line = line[:LONGEST_LINE]
        # A disk that hangs costs lines of the night, and not the memory of the miner.
        if self._disk.waiting < MOST_WAITING:
            self._disk.submit(lambda: self._write(line))
        record = _record(line)
        if record is None:
            if line.strip():
                self._last.append(line.strip())
        elif "stage" in record:
            self._at = {"stage": str(record["stage"])}
            log.info("night_stage", **_plain(record))
        elif "done" in record:
            self._at |= {name: record[name] for name in ("done", "total", "note") if name in record}
        elif "message" in record:
            log.info("night_note", text=str(record["message"]))
        elif "event" in record:
            self._pass_on(record)

    def close(self) -> None:
        """Close the file, once what came is in it."""
        self._disk.submit(lambda: None if self._file is None else self._file.close())

    def _write(self, line: str) -> None:
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = _Quiet(
                self._path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8", errors="replace"
            )
        self._file.emit(logging.makeLogRecord({"msg": line}))

    def _pass_on(self, record: dict[str, Any]) -> None:
        """A line of the run's own log, at its level, with its name."""
        name, level = str(record.pop("event")), str(record.pop("level", "info"))
        getattr(log, TOLD_LOUD.get(level, "info"))(name, of="night", **_plain(record))


class _Quiet(RotatingFileHandler):
    """A full disk costs lines of the night, and not the night."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the name is the library's
        """Go on without the line."""


def _record(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _plain(record: Mapping[str, Any]) -> dict[str, Any]:
    # The log has its own of these.
    own = {"timestamp", "logger", "level", "event", "of"}
    return {name: value for name, value in record.items() if name not in own}

"""The journal: one line of JSON for every request that was accepted, with what was seen, decided and answered."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pydantic import ValidationError

from engines.machine.background_tasks import is_over
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.tally import Tally
from miner.answering.record import RequestRecord

FILE = "journal.jsonl"
MAX_BYTES = 64 * 2**20
KEPT_FILES = 8
BLOCK_BYTES = 2**16
# A file that is full, while older ones make room for it.
FULL_SUFFIX = ".full"
PUT_OFF_S = 60.0
# An answer waits for its record so long, and no more than so many records for a disk that hangs.
MOMENT_S, MOST_WAITING = 0.25, 10_000
CLOSE_S = 5.0
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class Journal:
    """An observer that has records appended by a thread: a disk that hangs costs records, and nobody's answer.

    Args:
        directory: created if it is not there.
        tally: counts what is lost; one of its own without it.

    Attributes:
        disk: the thread.
    """

    def __init__(self, directory: Path, tally: Tally | None = None) -> None:
        self._tally = tally or Tally("journal_failed")
        self._file = JournalFile(directory, self._tally)
        self.disk = DiskThread("journal")
        self._last: Future[None] | None = None

    def on_answer(self, record: RequestRecord) -> None:
        """Have one record appended; see `written`."""
        if self.disk.waiting >= MOST_WAITING:
            remedy = "see whether the disk of the state directory hangs"
            self._tally.add("record_lost", f"{MOST_WAITING} records wait to be written", remedy=remedy)
            return
        self._last = last = self.disk.submit(partial(self._append, record))
        if last.done() and (error := last.exception()) is not None:
            # The machine has no thread left.
            self._tally.add("record_lost", repr(error))

    def _append(self, record: RequestRecord) -> None:
        try:
            self._file.append(record)
        except Exception as error:  # noqa: BLE001  nobody waits who could tell it
            self._tally.add("record_lost", repr(error), error=error)

    async def written(self) -> None:
        """Wait until what came is in the file, or lost; for a moment, and not for a disk that took longer before."""
        if (last := self._last) is not None and self.disk.hangs_s <= MOMENT_S:
            await is_over(last, MOMENT_S)

    def close(self) -> None:
        """Write what waits and close the file; where the disk hangs, what waits is lost after some seconds."""
        concurrent.futures.wait([self.disk.submit(self._file.close)], timeout=CLOSE_S)


class JournalFile:
    """Appends records to `journal.jsonl`, a new file every 64 MiB, the last eight kept.

    A record that cannot be written, because the disk is full or read-only, is lost and counted; nobody's answer is.

    Args:
        directory: created if it is not there.
        tally: counts what is lost; one of its own without it.
    """

    def __init__(self, directory: Path, tally: Tally | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / FILE
        _finish_rollover(self._path)
        self._tally = tally or Tally("journal_failed")
        self._handler = _Appender(self._path, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8")
        self._torn = _is_torn(self._path)

    @property
    def lost(self) -> int:
        """How many records could not be written."""
        return self._tally.counts["record_lost"]

    def append(self, record: RequestRecord) -> None:
        """Append one record; it is in the file when this returns, or counted as lost."""
        line = record.model_dump_json(exclude_none=True)
        # Behind a line that was cut short; otherwise the two would be one that nobody can read.
        text = f"\n{line}" if self._torn else line
        try:
            if self._handler.lost_its_file():
                self._tally.add("file_lost", "the file was moved or removed; a new one is begun", path=str(self._path))
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._handler.reopen()
            self._handler.append(text)
            self._torn = False
        except OSError as error:
            self._torn = True
            self._handler.reopen()
            remedy = "make room on the disk" if error.errno in FULL else "see whether the directory can be written"
            self._tally.add("record_lost", str(error), path=str(self._path), remedy=remedy)

    def close(self) -> None:
        """Close the file."""
        with contextlib.suppress(OSError):
            self._handler.close()


class _Appender(RotatingFileHandler):
    """Writes lines, and raises what the base class prints as a traceback on standard error, each time.

    Where the file cannot be renamed it grows on, and older files stay: the base class would move them first, again and
    again. A line is no record of a log: to make one, and to have its length looked up in the file, costs three times as
    much as to write it.
    """

    _put_off_until = 0.0
    # As the file was when it was last looked at, in bytes.
    _size = 0

    def append(self, line: str) -> None:
        """Write one line; ask `lost_its_file` before.

        Raises:
            OSError: it cannot be written, or a new file cannot be begun.
        """
        if self._size + len(line) >= self.maxBytes and time.monotonic() >= self._put_off_until:
            self.doRollover()
        if self.stream is None:
            self.stream = self._open()
        self.stream.write(f"{line}\n")
        self.stream.flush()

    def doRollover(self) -> None:  # noqa: N802  the base class's
        full = f"{self.baseFilename}{FULL_SUFFIX}"
        try:
            # One that was left there, because the older ones could not make room, goes first.
            if not os.path.exists(full):  # noqa: PTH110  the base class has texts
                os.replace(self.baseFilename, full)  # noqa: PTH105
        except OSError:
            self._put_off_until = time.monotonic() + PUT_OFF_S
            return
        super().doRollover()

    def rotate(self, source: str, dest: str) -> None:  # noqa: ARG002  the base class would move the file itself
        # Before the new file is opened, which may fail.
        os.replace(f"{self.baseFilename}{FULL_SUFFIX}", dest)  # noqa: PTH105

    def lost_its_file(self) -> bool:
        """Whether another file stands at the path, or none: what is written would be in a file that has no name."""
        if self.stream is None:
            self._size = 0
            return False
        held = os.fstat(self.stream.fileno())
        self._size = held.st_size
        try:
            there = os.stat(self.baseFilename)  # noqa: PTH116  the base class has texts
        except FileNotFoundError:
            return True
        return (held.st_dev, held.st_ino) != (there.st_dev, there.st_ino)

    def reopen(self) -> None:
        """Forget what the file's buffer holds, which would be written twice or not at all."""
        stream, self.stream = self.stream, None
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


def _finish_rollover(path: Path) -> None:
    """Put a full file where a crash kept it from, so that the next one does not take its place."""
    full, first = Path(f"{path}{FULL_SUFFIX}"), Path(f"{path}.1")
    with contextlib.suppress(OSError):
        if full.exists() and not path.exists():
            full.replace(path)
        elif full.exists() and not first.exists():
            full.replace(first)


def _is_torn(path: Path) -> bool:
    """Whether the last line has no end."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False


def newest_first(directory: Path) -> Iterator[RequestRecord]:
    """Records of all files, the newest first; only as much is read as is asked for."""
    for suffix in ("", FULL_SUFFIX, *(f".{number}" for number in range(1, KEPT_FILES + 1))):
        for line in _lines_from_the_end(directory / f"{FILE}{suffix}"):
            with contextlib.suppress(ValidationError):
                yield RequestRecord.model_validate_json(line)


def _lines_from_the_end(path: Path) -> Iterator[bytes]:
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        place, rest = file.seek(0, os.SEEK_END), b""
        while place > 0:
            start = max(0, place - BLOCK_BYTES)
            file.seek(start)
            first, *lines = (file.read(place - start) + rest).split(b"\n")
            yield from reversed(lines)
            # Its beginning is in the block before.
            place, rest = start, first
        yield rest


def read_journal(directory: Path) -> Iterator[RequestRecord]:
    """Records of the newest file, oldest first; a line that a crash cut short is skipped."""
    with contextlib.suppress(FileNotFoundError), (directory / FILE).open("rb") as file:
        for line in file:
            with contextlib.suppress(ValidationError):
                yield RequestRecord.model_validate_json(line)

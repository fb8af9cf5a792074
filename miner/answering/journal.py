"""The journal: one line of JSON for every request that was accepted, with what was seen, decided and answered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path

from pydantic import ValidationError

from miner.answering.record import RequestRecord

FILE = "journal.jsonl"
MAX_BYTES = 64 * 2**20
KEPT_FILES = 8


class Journal:
    """Appends records to `journal.jsonl`, a new file every 64 MiB, the last eight kept.

    Args:
        directory: created if it is not there.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._handler = RotatingFileHandler(
            directory / FILE, maxBytes=MAX_BYTES, backupCount=KEPT_FILES, encoding="utf-8"
        )

    def on_answer(self, record: RequestRecord) -> None:
        """Append one record; it is in the file when this returns."""
        line = record.model_dump_json(exclude_none=True)
        self._handler.emit(logging.LogRecord("journal", logging.INFO, "", 0, line, None, None))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


def read_journal(directory: Path) -> Iterator[RequestRecord]:
    """Records of the newest file, oldest first; a line that a crash cut short is skipped."""
    path = directory / FILE
    if not path.exists():
        return
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            try:
                yield RequestRecord.model_validate_json(line)
            except ValidationError:
                continue

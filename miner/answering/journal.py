"""The journal: one line of JSON for every request that was accepted, with what was seen, decided and answered."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stage1.decisions import Action
from stage2_bridge.client import Outcome

FILE = "journal.jsonl"
MAX_BYTES = 64 * 2**20
KEPT_FILES = 8

Result = Literal["answered", "not_an_image", "stage1_failed", "stage1_late"]


class RequestRecord(BaseModel):
    """One request.

    Attributes:
        schema_version: version of this record.
        request_id: id that the logs carry too.
        at: time of arrival, UTC.
        hotkey: who asked.
        result: how it ended.
        image_sha256: hash of the image's bytes, empty if they could not be read.
        answer: what was answered; -1 only if the image could not be decoded.
        bundle: bundle that was live for this request, empty if none was.
        generation: generation of that bundle in this process.
        action: exit or defer.
        level: name of the level.
        review: AMBIGUOUS: a person should look at it.
        prediction_set: `[0]`, `[1]` or `[0, 1]`.
        likelier_label: the label that Stage-1 holds more probable, also where it defers.
        roadwork_score: Stage-1's log-odds.
        select_score: Stage-1's selection score.
        stage1_probability: Stage-1's calibrated probability.
        stage2: what became of the hand-off.
        stage2_probability: Stage-2's probability.
        stage1_ms: decoding and Stage-1, the wait for a worker included.
        total_ms: from arrival to answer.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    request_id: str
    at: datetime
    hotkey: str
    result: Result
    image_sha256: str = ""
    answer: float
    bundle: str = ""
    generation: int = 0
    action: Action | None = None
    level: str | None = None
    review: bool | None = None
    prediction_set: tuple[int, ...] | None = None
    likelier_label: int | None = None
    roadwork_score: float | None = None
    select_score: float | None = None
    stage1_probability: float | None = None
    stage2: Outcome | None = None
    stage2_probability: float | None = None
    stage1_ms: float | None = None
    total_ms: float


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

    def write(self, record: RequestRecord) -> None:
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

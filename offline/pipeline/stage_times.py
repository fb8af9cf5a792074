"""How long stages took, kept over the nights, so that a night can say how long it will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from pydantic import BaseModel, ConfigDict, ValidationError

from stage1.artifacts import append_line, whole_lines, write_atomic

TIMES = "stage_times.jsonl"
LAST = 5
# So large, the file is cut to the latest lines, many nights of them.
MOST_BYTES, KEPT_LINES = 256 * 2**10, 1000


class StageTime(BaseModel):
    """One line of `stage_times.jsonl`: a stage that was finished.

    Attributes:
        stage: its name.
        key: its key.
        seconds: from its start to its end.
        resumed: it went on from a checkpoint, so that a part of its work is not in the seconds.
        at: when it ended, UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    stage: str
    key: str
    seconds: float
    resumed: bool = False
    at: str


def note_time(workspace: Path, time: StageTime) -> None:
    """Write down how long a stage took; of a file that has become large the latest lines stay."""
    path = workspace / TIMES
    append_line(path, time)
    if path.stat().st_size > MOST_BYTES:
        write_atomic(path, b"".join(path.read_bytes().splitlines(keepends=True)[-KEPT_LINES:]))


def times_in(workspace: Path) -> list[StageTime]:
    """All that is written down, oldest first; a damaged line is passed over."""
    found = []
    for line in whole_lines(workspace / TIMES):
        try:
            found.append(StageTime.model_validate(line.record))
        except ValidationError:
            continue
    return found


def expected_seconds(times: Sequence[StageTime], stage: str) -> float | None:
    """Median of the last five times of a stage, those without a break where there are any; None if it never ran.

    Args:
        times: oldest first.
        stage: its name.
    """
    own = [time for time in times if time.stage == stage]
    chosen = [time for time in own if not time.resumed] or own
    return median(time.seconds for time in chosen[-LAST:]) if chosen else None


def duration_words(seconds: float) -> str:
    """A duration as people say it, for example `40 s`, `12 min` or `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"

"""What is kept of each night: when it ran, in which process, what came of it, and what it said.

A night is a directory of `nights/` in the state directory, named after its start. `night.json` is written by whoever
runs the nights; `verdict.json` by the run itself when it has published, so that a success is known also where nobody
was left to wait for it; `output.log` is what it said.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import JsonValue

from miner.nights.processes import ProcessMark, new_token, runs
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError

NIGHTS, RECORD, VERDICT, OUTPUT = "nights", "night.json", "verdict.json", "output.log"
REPORT = "report.html"
# Of a success that was recorded before nights had directories.
STAMP = "last_retrain.json"
KEPT = 60
NAME = "%Y%m%dT%H%M%S.%fZ"

# `put_off` is tried again the same night; `stopped` ended with the miner, and `lost` without anybody noticing.
Ending = Literal["running", "done", "failed", "put_off", "stopped", "lost"]


class RetrainStamp(Artifact):
    """`last_retrain.json`: when the last retraining that succeeded was started, UTC."""

    SCHEMA_VERSION: ClassVar[int] = 1

    started_at: datetime


class NightRecord(Artifact):
    """`night.json`.

    Attributes:
        started_at: UTC.
        token: what the environment of its processes carries; see `miner.nights.processes`.
        process: which process it is; None before it is started.
        ended_at: UTC; None while it runs.
        outcome: how it ended.
        status: exit status, negative for a signal; None while it runs, and where nobody saw it.
        reason: why it did not succeed, in one line.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    started_at: datetime
    token: str
    process: ProcessMark | None = None
    ended_at: datetime | None = None
    outcome: Ending = "running"
    status: int | None = None
    reason: str = ""


class NightVerdict(Artifact):
    """`verdict.json`.

    Attributes:
        at: when it was published, UTC.
        bundle: id of the challenger.
        verdict: PROMOTE, KEEP or REFUSE.
        reasons: why it was not promoted.
        notes: what else there is to know.
        run: directory of the run.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    at: datetime
    bundle: str
    verdict: str
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    run: str = ""


@dataclass(frozen=True)
class Night:
    """One night.

    Attributes:
        home: its directory.
        record: what is known of its process.
        verdict: what the run itself has recorded; None if it did not come to publish.
    """

    home: Path
    record: NightRecord
    verdict: NightVerdict | None

    @property
    def outcome(self) -> Ending:
        """How it ended: done if the run has recorded that, whatever became of it afterwards."""
        return "done" if self.verdict is not None and self.record.outcome != "running" else self.record.outcome

    @property
    def succeeded(self) -> bool:
        """Whether it has published, or ended well; also of one that goes on after that."""
        return self.verdict is not None or self.record.outcome == "done"

    @property
    def under_way(self) -> bool:
        """Whether its process runs at this moment."""
        return self.record.outcome == "running" and self.record.process is not None and runs(self.record.process)

    @property
    def in_words(self) -> str:
        """What came of it, in a few words."""
        if self.record.outcome == "running":
            return "under way" if self.under_way else "was never seen to end"
        if self.verdict is None:
            return f"{self.outcome}: {self.record.reason}" if self.record.reason else self.outcome
        why = f": {'; '.join(self.verdict.reasons)}" if self.verdict.reasons else ""
        return f"{self.verdict.verdict} {self.verdict.bundle[:8]}{why}"

    @property
    def report(self) -> Path | None:
        """The page of its run; None where it has none, or it was removed with the run."""
        page = None if self.verdict is None or not self.verdict.run else Path(self.verdict.run) / REPORT
        return page if page is not None and page.is_file() else None

    def plain(self) -> dict[str, JsonValue]:
        """As plain values, times ISO 8601."""
        record, verdict = self.record, self.verdict
        ended = record.ended_at
        return {
            "started_at": record.started_at.isoformat(),
            "ended_at": None if ended is None else ended.isoformat(),
            "outcome": self.outcome,
            "status": record.status,
            "reason": record.reason,
            "verdict": None if verdict is None else verdict.verdict,
            "bundle": None if verdict is None else verdict.bundle,
            "reasons": [] if verdict is None else list(verdict.reasons),
            "notes": [] if verdict is None else list(verdict.notes),
            "output": str(self.home / OUTPUT),
            "report": None if self.report is None else f"nights/{self.home.name}/{REPORT}",
        }


class Nights:
    """The nights of a state directory.

    Args:
        state: the state directory.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self.home = state / NIGHTS
        # What has ended does not change.
        self._known: dict[str, Night] = {}

    def begin(self, now: datetime, token: str | None = None) -> Path:
        """The directory of a night that begins; the oldest ones make room for it.

        Args:
            now: its start, UTC.
            token: that its processes carry; a new one by default.
        """
        home = self.home / now.strftime(NAME)
        home.mkdir(parents=True, exist_ok=True)
        NightRecord(started_at=now, token=token or new_token()).write(home / RECORD)
        self._make_room()
        return home

    def named(self, name: str) -> Night | None:
        """The night of a directory; None where there is none of that name."""
        return next((night for night in self.all() if night.home.name == name), None)

    def all(self) -> list[Night]:
        """Every night that is kept, the newest last."""
        found: dict[str, Night] = {}
        for home in sorted(home for home in self.home.glob("*Z") if home.is_dir()):
            # A crash can come before the record is there.
            with contextlib.suppress(ArtifactError):
                found[home.name] = self._known.get(home.name) or _night(home)
        self._known = {name: night for name, night in found.items() if night.record.outcome != "running"}
        return list(found.values())

    def latest(self, most: int) -> list[Night]:
        """The newest so many, the newest last."""
        return self.all()[-most:]

    def first(self) -> datetime | None:
        """When the oldest night that is kept was started, UTC; None if there was none."""
        return next((night.record.started_at for night in self.all()), None)

    def last_success(self) -> datetime | None:
        """When the last night that succeeded was started, UTC; None if there was none."""
        found = [night.record.started_at for night in self.all() if night.succeeded]
        with contextlib.suppress(ArtifactError):
            found.append(RetrainStamp.read(self._state / STAMP).started_at)
        return max(found, default=None)

    def failures_in_a_row(self) -> int:
        """How many of the newest nights failed; what was stopped, lost or put off is neither."""
        number = 0
        for night in reversed(self.all()):
            if night.outcome == "done":
                break
            number += night.outcome == "failed"
        return number

    def left(self) -> list[Night]:
        """Nights that were never seen to end."""
        return [night for night in self.all() if night.record.outcome == "running"]

    def _make_room(self) -> None:
        nights = self.all()
        succeeded = [night for night in nights if night.succeeded]
        for night in nights[:-KEPT]:
            if night not in succeeded[-1:]:
                shutil.rmtree(night.home, ignore_errors=True)


def noted(home: Path, **changes: object) -> Night:
    """Write down more of a night.

    Args:
        home: its directory.
        changes: values of its record.
    """
    record = NightRecord.read(home / RECORD)
    NightRecord.model_validate(dict(record) | changes).write(home / RECORD)
    return _night(home)


def _night(home: Path) -> Night:
    verdict = None
    with contextlib.suppress(ArtifactError):
        verdict = NightVerdict.read(home / VERDICT)
    return Night(home, NightRecord.read(home / RECORD), verdict)

"""When conditions begin and when they end: each is told once at either, and not for a moment in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

from pydantic import AwareDatetime, Field, model_validator

from engines.machine.disk.disk_thread import DiskThread
from engines.machine.tally import Tally
from miner.alerts.rules import Condition
from miner.events.event import Event, Level
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError

# A condition holds, or is gone, for so long before that is told.
SETTLED_S = 60.0


class Held(Artifact):
    """`alerts.json`: what was told to have begun and not yet to have ended, so that a restart does not tell it again.

    Attributes:
        since: when each began, UTC, by its name.
        levels: how much each matters.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    since: dict[str, AwareDatetime] = Field(default_factory=dict)
    levels: dict[str, Level] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.since.keys() != self.levels.keys():
            raise ValueError("levels must be of what is in since")
        return self


class Edges:
    """Compares each list of conditions with those before it.

    Args:
        file: where what holds is kept.
        settled_s: how long a condition must hold, or be gone, before that is told.
        disk: writes the file; without it, whoever compares does.
    """

    def __init__(self, file: Path, settled_s: float = SETTLED_S, disk: DiskThread | None = None) -> None:
        self._file = file
        self._disk = disk
        self._writing: Future[None] | None = None
        self._settled_s = settled_s
        self._seen: dict[str, tuple[datetime, float]] = {}
        self._gone: dict[str, float] = {}
        try:
            self._held = Held.read(file)
        except (ArtifactError, OSError):
            self._held = Held()
        # What is on the disk: replaced as a whole, for the thread of the disk says so.
        self._kept = self._held
        self._lost = Tally("alerts_not_kept")

    @property
    def held(self) -> list[str]:
        """Names of what was told and holds still, the oldest first."""
        return sorted(self._held.since, key=lambda name: self._held.since[name])

    def compare(
        self,
        found: Iterable[Condition],
        now: datetime,
        undecided: Callable[[str], bool] = lambda _: False,
        *,
        clock_s: float | None = None,
    ) -> list[Event]:
        """What is to be told now.

        Args:
            found: everything that holds.
            now: UTC.
            undecided: whether nothing is known of a condition by its name; it goes on as it was.
            clock_s: monotonic time in seconds, by which a condition settles whatever happens to the wall clock.
        """
        at = now.timestamp() if clock_s is None else clock_s
        holding = {one.name: one for one in found}
        self._seen = {name: self._seen.get(name, (now, at)) for name in holding}
        missing = (name for name in self._held.since if name not in holding and not undecided(name))
        self._gone = {name: self._gone.get(name, at) for name in missing}
        begun = [
            one
            for name, one in holding.items()
            if name not in self._held.since and at - self._seen[name][1] >= self._settled_s
        ]
        over = [name for name, since in self._gone.items() if at - since >= self._settled_s]
        events = [self._begin(one) for one in begun] + [self._end(name, now) for name in over]
        if events:
            since = {name: when for name, when in self._held.since.items() if name not in over}
            levels = {name: self._held.levels[name] for name in since}
            since |= {one.name: self._seen[one.name][0] for one in begun}
            self._held = Held(since=since, levels=levels | {one.name: one.level for one in begun})
        self.keep()
        return events

    def keep(self) -> None:
        """Have what holds written down, unless that is done, or is waited for."""
        if self._kept is self._held:
            return
        if self._disk is None:
            self._write()
        else:
            # One that waits writes what there is then.
            self._writing = self._disk.anew(self._writing, self._write)

    def _write(self) -> None:
        held = self._held
        try:
            held.write(self._file)
        except OSError as error:
            # A disk that is full is among what is told: told twice after a restart is better than never.
            self._lost.add("not_written", str(error))
        else:
            self._kept = held

    def _begin(self, one: Condition) -> Event:
        return Event("condition_begins", one.level, one.text, {"condition": one.name})

    def _end(self, name: str, now: datetime) -> Event:
        # The clock may have been set back meanwhile.
        minutes = max(0.0, (now - self._held.since[name]).total_seconds()) / 60
        text = f"Over after {minutes:.0f} minutes: {name.replace('_', ' ')}."
        # As loud as its beginning: whoever heard of that waits for this.
        return Event("condition_over", self._held.levels[name], text, {"condition": name})

"""When conditions begin and when they end: each is told once at either, and not for a moment in between."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Self

from pydantic import AwareDatetime, Field, model_validator

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
    """

    def __init__(self, file: Path, settled_s: float = SETTLED_S) -> None:
        self._file = file
        self._settled_s = settled_s
        self._seen: dict[str, datetime] = {}
        self._gone: dict[str, datetime] = {}
        try:
            self._held = Held.read(file)
        except (ArtifactError, OSError):
            self._held = Held()
        self._kept = True
        self._lost = Tally("alerts_not_kept")

    @property
    def held(self) -> list[str]:
        """Names of what was told and holds still, the oldest first."""
        return sorted(self._held.since, key=lambda name: self._held.since[name])

    def compare(self, found: Iterable[Condition], now: datetime) -> list[Event]:
        """What is to be told now.

        Args:
            found: everything that holds.
            now: UTC.
        """
        holding = {one.name: one for one in found}
        self._seen = {name: self._seen.get(name, now) for name in holding}
        self._gone = {name: self._gone.get(name, now) for name in self._held.since if name not in holding}
        begun = [
            one
            for name, one in holding.items()
            if name not in self._held.since and self._settled(self._seen[name], now)
        ]
        over = [name for name, since in self._gone.items() if self._settled(since, now)]
        events = [self._begin(one) for one in begun] + [self._end(name, now) for name in over]
        if events:
            since = {name: when for name, when in self._held.since.items() if name not in over}
            levels = {name: self._held.levels[name] for name in since}
            since |= {one.name: self._seen[one.name] for one in begun}
            self._held = Held(since=since, levels=levels | {one.name: one.level for one in begun})
            self._kept = False
        if not self._kept:
            self._keep()
        return events

    def _keep(self) -> None:
        try:
            self._held.write(self._file)
        except OSError as error:
            # A disk that is full is among what is told: told twice after a restart is better than never.
            self._lost.add("not_written", str(error))
        else:
            self._kept = True

    def _settled(self, since: datetime, now: datetime) -> bool:
        return (now - since).total_seconds() >= self._settled_s

    def _begin(self, one: Condition) -> Event:
        return Event("condition_begins", one.level, one.text, {"condition": one.name})

    def _end(self, name: str, now: datetime) -> Event:
        minutes = (now - self._held.since[name]).total_seconds() / 60
        text = f"Over after {minutes:.0f} minutes: {name.replace('_', ' ')}."
        # As loud as its beginning: whoever heard of that waits for this.
        return Event("condition_over", self._held.levels[name], text, {"condition": name})

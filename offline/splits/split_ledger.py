"""The split ledger: where every group was put, for ever.

`splits.ledger.jsonl` is appended to and never changed. A run that is killed while it writes leaves the first few of
its lines; the next run finds these groups placed and goes on with the others as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.jsonl import read_records
from offline.errors import DatasetError
from offline.splits.settings import Split
from stage1.artifacts import append_lines

SPLIT_LEDGER = "splits.ledger.jsonl"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1


class StrataCut(_Line):
    """The bins of difficulty, frozen for one `strata_version`.

    Attributes:
        event: tells it from an assignment.
        strata_version: the version.
        scorer: name of the frozen scorer.
        edges: inner edges of the bins, ascending.
        at: when they were cut, UTC, ISO 8601.
    """

    event: Literal["strata"] = "strata"
    strata_version: int
    scorer: str
    edges: tuple[float, ...]
    at: str


class Assignment(_Line):
    """A group was placed, or a placed group got new rows.

    Attributes:
        event: tells it from a cut.
        group: name of the group.
        split: where it is.
        fold: number of its fold from 0, in val_calib; None elsewhere.
        rows: ids of its new rows.
        first_seen: when these rows came, UTC, ISO 8601.
        strata_version: the bins by which the group was placed.
    """

    event: Literal["assign"] = "assign"
    group: str
    split: Split
    fold: int | None = Field(default=None, ge=0)
    rows: tuple[str, ...]
    first_seen: str
    strata_version: int


Event = Annotated[StrataCut | Assignment, Field(discriminator="event")]
_EVENTS: TypeAdapter[StrataCut | Assignment] = TypeAdapter(Event)


class Home(NamedTuple):
    """Where a group lives: its split, and in val_calib its fold."""

    split: Split
    fold: int | None = None


@dataclass(frozen=True)
class Ledger:
    """What the ledger says.

    Attributes:
        homes: home of each group, in the order in which the groups were placed.
        groups: group of each row that was ever placed, whether it is still in the data or not.
        cuts: the bins of each `strata_version`.
    """

    homes: Mapping[str, Home] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    cuts: Mapping[int, StrataCut] = field(default_factory=dict)

    def after(self, events: Iterable[Event]) -> Ledger:
        """What it says after some more events.

        Raises:
            DatasetError: they contradict each other or what was there.
        """
        homes, groups, cuts = dict(self.homes), dict(self.groups), dict(self.cuts)
        for event in events:
            if isinstance(event, StrataCut):
                if cuts.setdefault(event.strata_version, event) != event:
                    raise DatasetError(f"the split ledger cuts the strata of version {event.strata_version} twice")
                continue
            home = Home(event.split, event.fold)
            if homes.setdefault(event.group, home) != home:
                raise DatasetError(f"the split ledger has group {event.group!r} in {homes[event.group]} and in {home}")
            for row in event.rows:
                if groups.setdefault(row, event.group) != event.group:
                    raise DatasetError(
                        f"the split ledger has row {row!r} in group {groups[row]!r} and in group {event.group!r}"
                    )
        return Ledger(homes, groups, cuts)

    def home_of(self, row: str) -> Home | None:
        """Home of a row, None if it was never placed."""
        return self.homes[self.groups[row]] if row in self.groups else None


def read_split_ledger(path: Path) -> Ledger:
    """Read the ledger; an absent file is an empty one, and a line that a crash cut short says nothing.

    Raises:
        DatasetError: a line is not an event, or the events contradict each other.
    """
    return Ledger().after(read_records(path, _EVENTS))


def append_events(path: Path, events: Sequence[Event]) -> None:
    """Write events down, in order."""
    if events:
        append_lines(path, events)

"""The split ledger: where every group was put, for ever.

`splits.ledger.jsonl` is appended to and never changed, and its lines are chained. A run that is killed while it writes
leaves the first few of its lines; the next run finds these groups placed and goes on with the others as if nothing had
happened.

A row is known by the content of its image, wherever that lies now. A path whose content is new is where the path was,
because a picture that was exported again is still the same picture.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.data.chained_ledger import append_chain, read_chain
from offline.errors import DatasetError
from offline.splits.settings import Split

SPLIT_LEDGER = "splits.ledger.jsonl"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2


class CutKey(NamedTuple):
    """For what bins of difficulty are cut: once for each of these.

    Attributes:
        strata_version: the version that a person has asked for.
        scorer: name of the frozen scorer.
        bins: number of bins.
    """

    strata_version: int
    scorer: str
    bins: int


class StrataCut(_Line):
    """The bins of difficulty, frozen for one `strata_version`, one scorer and one number of bins.

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

    @property
    def key(self) -> CutKey:
        """For what they were cut."""
        return CutKey(self.strata_version, self.scorer, len(self.edges) + 1)


class PlacedRow(BaseModel):
    """A row that was placed.

    Attributes:
        row: its id, which is the path of its image.
        sha256: hash of its file; None if only its path is known.
        label: its label when it was placed; None if it was not written down.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: str
    sha256: str | None = None
    label: int | None = None


class Assignment(_Line):
    """A group was placed, or a placed group got new rows.

    Attributes:
        event: tells it from a cut.
        group: name of the group.
        split: where it is.
        fold: number of its fold from 0, in val_calib; None elsewhere.
        rows: its new rows, and known ones that lie elsewhere now.
        first_seen: when these rows came, UTC, ISO 8601.
        strata_version: version of the bins by which the group was placed.
        chained: it trains because it is a longer chain of visits to roadwork than a group of an exam may be.
    """

    event: Literal["assign"] = "assign"
    group: str
    split: Split
    fold: int | None = Field(default=None, ge=0)
    rows: tuple[PlacedRow, ...]
    first_seen: str
    strata_version: int
    chained: bool = False


Event = Annotated[StrataCut | Assignment, Field(discriminator="event")]
_EVENTS: TypeAdapter[StrataCut | Assignment] = TypeAdapter(Event)
# Where one content was put twice, what it did first matters most: what has trained or chosen never certifies.
FIRST: tuple[Split, ...] = ("train", "val_select", "val_calib", "test")


class Home(NamedTuple):
    """Where a group lives: its split, and in val_calib its fold."""

    split: Split
    fold: int | None = None


@dataclass(frozen=True)
class Ledger:
    """What the ledger says.

    Attributes:
        homes: home of each group, in the order in which the groups were placed.
        groups: group of each row that was ever placed, by its id, whether it is still in the data or not.
        cuts: the bins by what they were cut for, in the order in which they were cut.
        contents: group of each content that was ever placed, by the hash of its file.
        placed: group and label of each row and content that were ever placed together.
        chained: groups that train because they were too long a chain of visits to roadwork when they were placed.
    """

    homes: Mapping[str, Home] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
    cuts: Mapping[CutKey, StrataCut] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)
    placed: Mapping[tuple[str, str | None], tuple[str, int | None]] = field(default_factory=dict)
    chained: frozenset[str] = frozenset()

    def after(self, events: Iterable[Event]) -> Ledger:
        """What it says after some more events.

        Raises:
            DatasetError: they contradict each other or what was there.
        """
        homes, groups, cuts = dict(self.homes), dict(self.groups), dict(self.cuts)
        contents, placed, chained = dict(self.contents), dict(self.placed), set(self.chained)
        for event in events:
            if isinstance(event, StrataCut):
                if cuts.setdefault(event.key, event) != event:
                    raise DatasetError(
                        f"the split ledger cuts the strata of version {event.strata_version} twice into "
                        f"{event.key.bins} bins by {event.scorer!r}"
                    )
                continue
            home = Home(event.split, event.fold)
            if homes.setdefault(event.group, home) != home:
                raise DatasetError(f"the split ledger has group {event.group!r} in {homes[event.group]} and in {home}")
            chained |= {event.group} if event.chained else set()
            for row in event.rows:
                group, _ = placed.setdefault((row.row, row.sha256), (event.group, row.label))
                if group != event.group:
                    raise DatasetError(
                        f"the split ledger has row {row.row!r} in group {group!r} and in group {event.group!r}"
                    )
                groups[row.row] = group
                if row.sha256 is not None:
                    before = contents.setdefault(row.sha256, group)
                    contents[row.sha256] = min((before, group), key=lambda name: FIRST.index(homes[name].split))
        return Ledger(homes, groups, cuts, contents, placed, frozenset(chained))

    def home_of(self, row: str) -> Home | None:
        """Home of a row, None if it was never placed."""
        return self.homes[self.groups[row]] if row in self.groups else None

    def group_of(self, row: str, sha256: str | None) -> str | None:
        """Group of a row with this id and this content, None if neither was ever placed."""
        if (row, sha256) in self.placed:
            return self.placed[row, sha256][0]
        if sha256 is not None and sha256 in self.contents:
            return self.contents[sha256]
        return self.groups.get(row)

    def in_names_of(self, rows: Iterable[str], contents: Mapping[str, str]) -> Ledger:
        """What it says of the rows of a night, by the ids that they have now.

        Args:
            rows: their ids.
            contents: hash of the file of each, where it is known.
        """
        found = {row: self.group_of(row, contents.get(row)) for row in rows}
        groups = {row: group for row, group in found.items() if group is not None}
        return replace(self, groups=groups)


def read_split_ledger(path: Path) -> Ledger:
    """Read the ledger; an absent file is an empty one, and a line that a crash cut short says nothing.

    Raises:
        DatasetError: a line is not an event, the chain is broken, or the events contradict each other.
    """
    return Ledger().after(read_chain(path, _EVENTS))


def append_events(path: Path, events: Sequence[Event]) -> None:
    """Write events down, in order."""
    append_chain(path, events)

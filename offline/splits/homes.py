"""Who stays where: the groups of a night, the home that the ledger gives them, and rows that can live nowhere.

A row that has been placed never moves. So a new row that depends on rows of two homes can be in neither, nor can what
depends on it: it is left out, with the reason, and looked at again every night. A new group that is a long chain of
visits to construction sites goes to train; one that has a home stays there, however long it grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from offline.data.checks.likeness import Likeness
from offline.data.dataset import Row
from offline.data.values import identity
from offline.errors import DatasetError
from offline.splits.dependent_groups import components
from offline.splits.settings import SplitSettings
from offline.splits.split_ledger import FIRST, Home, Ledger

TRAIN = Home("train")


@dataclass(frozen=True)
class Group:
    """Rows that depend on each other.

    Attributes:
        name: the name under which the ledger knows them, or the first of their declared groups.
        rows: the rows, sorted by id.
        home: where they live; None if they are all new.
        chained: they train because they are, or were when they were placed, too long a chain of visits to roadwork.
    """

    name: str
    rows: tuple[Row, ...]
    home: Home | None
    chained: bool = False


@dataclass(frozen=True)
class Settling:
    """Finds groups and their homes.

    Attributes:
        likeness: which rows look alike.
        contents: hash of the file of each row.
        ledger: what was placed before, in the names of these rows.
        settings: what else joins two rows.
        declared: groups that several rows name; any other one may be no more than the path of its row.
    """

    likeness: Likeness
    contents: Mapping[str, str]
    ledger: Ledger
    settings: SplitSettings
    declared: Collection[str] = frozenset()

    def settle(self, rows: Sequence[Row]) -> tuple[list[Group], dict[str, str]]:
        """The groups of these rows, and the reason for each row that is in none."""
        groups: list[Group] = []
        left_out: dict[str, str] = {}
        for part in self._components(self._declared(rows)):
            if len(self._homes(part)) < 2:
                groups.append(self._group(part))
                continue
            why = self._why(part)
            known = [row for row in part if row.image in self.ledger.groups]
            left_out |= {row.image: why for row in part if row.image not in self.ledger.groups}
            for rest in self._components(known):
                staying = self._majority(rest)
                # They were joined after they had been placed, by an edited labels file or another setting.
                left_out |= {row.image: why for row in rest if self._home(row) != staying}
                groups += map(self._group, self._components([row for row in rest if self._home(row) == staying]))
        return groups, left_out

    def admit(self, groups: Sequence[Group], extras: Sequence[Row]) -> tuple[list[Group], dict[str, str]]:
        """Add rows that may only train to groups that all have a home.

        Args:
            groups: groups of the other rows.
            extras: the rows that may only train.

        Returns:
            The groups with these rows, and the reason for each row that is in none.
        """
        home = {row.image: group.home for group in groups for row in group.rows}
        home |= {row.image: self._home(row) or TRAIN for row in extras}
        everything = [row for group in groups for row in group.rows] + self._declared(extras)
        extra = {row.image for row in extras}
        left_out: dict[str, str] = {}
        for part in self._components(everything):
            elsewhere = [row for row in part if home[row.image] != TRAIN]
            if elsewhere:
                why = f"may only train, but depends on {_in(home[elsewhere[0].image])}, {elsewhere[0].image!r}"
                left_out |= {row.image: why for row in part if row.image in extra}
        kept = [row for row in everything if row.image not in left_out]
        return [Group(self._name(part), tuple(part), home[part[0].image]) for part in self._components(kept)], left_out

    def _components(self, rows: Sequence[Row]) -> list[list[Row]]:
        return components(rows, self.likeness, self.settings, self.ledger.groups, self.contents)

    def _declared(self, rows: Sequence[Row]) -> list[Row]:
        """The rows; a known one without a declared group in the group of the ledger alone, not in that of its path.

        Files that changed their names with each other would otherwise be one group.
        """
        known = self.ledger.groups
        return [
            row.model_copy(update={"group": known[row.image]})
            if row.group == row.image in known and row.group not in self.declared
            else row
            for row in rows
        ]

    def _group(self, rows: Sequence[Row]) -> Group:
        name, home = self._name(rows), next(iter(self._homes(rows)), None)
        if home is None and self._is_long(rows):
            return Group(name, tuple(rows), TRAIN, chained=True)
        return Group(name, tuple(rows), home, chained=name in self.ledger.chained)

    def _is_long(self, rows: Sequence[Row]) -> bool:
        """Whether the roadwork rule made these rows one group out of too many."""
        most = self.settings.roadwork_chain
        if most is None or self.settings.roadwork_days is None or len(rows) <= most:
            return False
        alone = self.settings.model_copy(update={"roadwork_days": None})
        return len(components(rows, self.likeness, alone, self.ledger.groups, self.contents)) > most

    def _name(self, rows: Sequence[Row]) -> str:
        known = {self.ledger.groups.get(row.image, self._placed_as(row)) for row in rows} & self.ledger.homes.keys()
        if known:
            return min(known, key=self._rank.__getitem__)
        return min(row.group for row in rows)

    @cached_property
    def _rank(self) -> dict[str, int]:
        return {name: rank for rank, name in enumerate(self.ledger.homes)}

    def _home(self, row: Row) -> Home | None:
        """Where the row is, or, if it is new, where the group of its name is, whose other rows may be gone."""
        return self.ledger.home_of(row.image) or self.ledger.homes.get(self._placed_as(row))

    def _placed_as(self, row: Row) -> str:
        """The name that the ledger has for the row's group, in whatever spelling it was placed."""
        return self._placed_names.get(row.group, row.group)

    @cached_property
    def _placed_names(self) -> dict[str, str]:
        """Names of the ledger by what they are spelled now; of several the one that has trained or chosen first."""
        homes = self.ledger.homes
        found: dict[str, str] = {}
        for name in homes:
            try:
                spelled = identity(name)
            except DatasetError:
                # It was rounded by a spreadsheet, when nobody looked.
                spelled = name
            found[spelled] = min(found.get(spelled, name), name, key=lambda one: FIRST.index(homes[one].split))
        return found

    def _homes(self, rows: Sequence[Row]) -> set[Home]:
        return {home for row in rows if (home := self._home(row)) is not None}

    def _majority(self, rows: Sequence[Row]) -> Home | None:
        counts = Counter(self._home(row) for row in rows)
        return max(counts, key=lambda home: (counts[home], home == TRAIN, str(home)))

    def _why(self, rows: Sequence[Row]) -> str:
        example: dict[Home, str] = {}
        for row in rows:
            home = self._home(row)
            if home is not None:
                example.setdefault(home, row.image)
        (first, one), (second, other) = sorted(example.items(), key=str)[:2]
        return f"joins {_in(first)}, {one!r}, and {_in(second)}, {other!r}, which never move"


def _in(home: Home | None) -> str:
    if home is None or home.fold is None:
        return f"a row of {home.split if home else 'no set'}"
    return f"a row of fold {home.fold + 1} of {home.split}"

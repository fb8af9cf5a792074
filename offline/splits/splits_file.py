"""`splits.json`: which row is in which set, and the proof that no two sets have anything in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from offline.data.checks.near_hashes import HASH_BITS
from offline.data.checks.perceptual_hash import nearest_apart, words_of
from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.splits.settings import Split
from stage1.artifacts import Artifact

QuarantineKind = Literal["ties two sets", "spent", "only trains"]
# A quote inside a text is escaped, so no text has this in it.
ROW = '{"row":'
NO_GROUPS = "too few groups; add data, or name finer groups in the group column"
# Among more rows the most similar ones are only looked for as far as the splits need it.
ALL_COMPARED = 16_384


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SplitRow(_Part):
    """One row of a set.

    Attributes:
        row: id of the row.
        group: everything that depends on it; larger than its group in the labels file if groups depend on each other.
        phash: perceptual hash, 64 hex digits; None for a blank picture.
        sha256: hash of its file, by which it is known again; None if nobody took it.
        label: its label; None if nobody wrote it down.
    """

    row: str
    group: str
    phash: str | None = None
    sha256: str | None = None
    label: int | None = None


class SplitSet(_Part):
    """One set.

    Attributes:
        rows: its rows, sorted by id.
        groups: number of groups.
        positives: number of rows with roadwork.
        class_balance: share of rows with roadwork; None if the set is empty.
        difficulty: minimum, quartiles and maximum of the difficulty, without rows that may only train.
        strata: number of rows of each stratum, without rows that may only train.
    """

    rows: tuple[SplitRow, ...]
    groups: int
    positives: int
    class_balance: float | None = None
    difficulty: tuple[float, ...] = ()
    strata: dict[str, int] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        """Row ids."""
        return tuple(row.row for row in self.rows)


class Quarantined(_Part):
    """A row that is in no set.

    Attributes:
        row: id of the row.
        reason: why it can be in none.
        kind: `ties two sets` if it depends on rows of both, `spent` if a bundle trained on its group or chose by it and
            it was to certify, `only trains` if it may only train and depends on an exam; None in a file that says no
            kinds.
    """

    row: str
    reason: str
    kind: QuarantineKind | None = None


class LongChains(_Part):
    """Groups that train because they are too long a chain of visits to roadwork; see `splits.roadwork_chain`.

    Attributes:
        groups: how many they are.
        rows: rows of them.
    """

    groups: int = 0
    rows: int = 0


class Nearest(_Part):
    """The two most similar pictures of different sets.

    Attributes:
        bits: distance of their perceptual hashes, 0 to 256.
        rows: their ids.
        sets: where they are.
    """

    bits: int
    rows: tuple[str, str]
    sets: tuple[Split, Split]


class OtherCut(_Part):
    """Bins of difficulty of the same version, by which groups were placed on other nights.

    Attributes:
        scorer: name of the scorer that cut them.
        bins: how many they are.
        at: when they were cut, UTC, ISO 8601.
    """

    scorer: str
    bins: int
    at: str


class RevisitedPlaces(_Part):
    """The places of an exam, and which of them are in train as well. A place is a cell of the GPS grid.

    Attributes:
        places: cells of its rows.
        in_train: those that rows of train were taken in, at any time.
        roadwork_places: cells of its rows with roadwork.
        roadwork_in_train: those that rows of train with roadwork were taken in, at any time.
        rows_without_place: rows that do not say where they were taken, and may be anywhere.
    """

    places: int
    in_train: int
    roadwork_places: int
    roadwork_in_train: int
    rows_without_place: int

    @property
    def are_new(self) -> bool:
        """Every row says where it was taken, and nothing in train was taken there."""
        return self.in_train == 0 == self.rows_without_place


class LostRows(_Part):
    """Rows that were ever in val_calib and are not there now, because they were deleted, changed or left out.

    Attributes:
        rows: how many they are; those with the same file are one.
        roadwork: those that were placed with roadwork.
        unknown: those whose label nobody wrote down.
        relabelled: rows that are there and have another label now than when they were placed.
    """

    rows: int = 0
    roadwork: int = 0
    unknown: int = 0
    relabelled: int = 0


class Splits(Artifact):
    """`splits.json`.

    Attributes:
        seed: seed of the draw.
        data_sha256: hash of the data that were split, unusable rows among them.
        hash_distance: rows of different sets differ in more bits than this; None if looks were not compared.
        scorer: name of the frozen scorer of difficulty.
        strata_version: version of the difficulty bins.
        edges: inner edges of the difficulty bins.
        other_cuts: bins of this version that another scorer cut, or that are more or fewer.
        sets: the four sets.
        folds: the folds of val_calib, as row ids.
        quarantined: rows that are in no set.
        chains: groups that only train because they tie too many visits to roadwork together.
        nearest: the two most similar pictures of different sets; None if there is no such pair, or if there are more
            than 16,384 rows and every two of different sets differ in more bits than `hash_distance`.
        places: of val_calib and of test, how many of their places are in train as well; empty if places are not read.
        lost: rows that val_calib once had.
        unread_bundles: ids of bundles of the store that do not say what they were made of.
    """

    SCHEMA_VERSION: ClassVar[int] = 3
    schema_version: int = 3

    seed: int
    data_sha256: str
    hash_distance: int | None = None
    scorer: str = ""
    strata_version: int = 1
    edges: tuple[float, ...] = ()
    other_cuts: tuple[OtherCut, ...] = ()
    sets: dict[Split, SplitSet]
    folds: tuple[tuple[str, ...], ...]
    quarantined: tuple[Quarantined, ...] = ()
    chains: LongChains = LongChains()
    nearest: Nearest | None = None
    places: dict[Split, RevisitedPlaces] = Field(default_factory=dict)
    lost: LostRows = LostRows()
    unread_bundles: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """The content of the file: UTF-8, a line for each row, for no record of a run grows more with the data."""
        return (self.model_dump_json().replace(ROW, f"\n{ROW}") + "\n").encode()

    @cached_property
    def compared(self) -> Nearest | None:
        """What `nearest` must be, found now and not read from the file."""
        return nearest_of(self.sets, compared_within(self.sets, self.hash_distance))

    @property
    def groups(self) -> dict[str, str]:
        """Group of each row of the four sets."""
        return {row.row: row.group for split in self.sets.values() for row in split.rows}

    @property
    def contents(self) -> dict[str, str]:
        """Hash of the file of each row of the four sets, where it was taken."""
        return {row.row: row.sha256 for split in self.sets.values() for row in split.rows if row.sha256 is not None}

    def dataset(self, data: Dataset, name: Split) -> Dataset:
        """The rows of one set, each in the group of everything that depends on it.

        Raises:
            DatasetError: a row is not in the data any more.
        """
        return self.pick(data, self.sets[name].ids)

    def pick(self, data: Dataset, ids: Sequence[str]) -> Dataset:
        """Rows of any set, each in the group of everything that depends on it.

        Raises:
            DatasetError: a row is not in the data any more.
        """
        return data.pick(ids).regrouped(self.groups)

    def check(self, data: Dataset) -> None:
        """Assert that no two sets and no two folds have anything in common, against the data themselves.

        Raises:
            DatasetError: a row, a group or a picture is in two, or a set lacks a class; the message names an example.
        """
        ids = [row for split in self.sets.values() for row in split.ids]
        if len(ids) != len(set(ids)):
            raise DatasetError(f"a row is in two splits: {_first_twice(ids)!r}")
        certified = sorted(row for fold in self.folds for row in fold)
        if certified != sorted(self.sets["val_calib"].ids):
            raise DatasetError("the folds of val_calib do not hold its rows, each once")
        sets = {name: self.dataset(data, name) for name in self.sets}
        folds = {f"fold {n} of val_calib": self.pick(data, fold) for n, fold in enumerate(self.folds, start=1)}
        for parts in (sets, folds):
            for part, rows in parts.items():
                check_classes(part, rows, "the splits were changed by hand or are of other rows; split again")
            _check_groups("group", {part: rows.groups for part, rows in parts.items()})
            # What the labels file calls one group, whatever this file says of it.
            declared = {part: [data.by_id[row].group for row in rows.ids] for part, rows in parts.items()}
            _check_groups("declared group", declared)
            _check_groups("the file", {part: self._contents_of(rows.ids) for part, rows in parts.items()})
        found = self.compared
        if self.hash_distance is not None and found is not None and found.bits <= self.hash_distance:
            raise DatasetError(
                f"{found.rows[0]!r} of {found.sets[0]} and {found.rows[1]!r} of {found.sets[1]} look the same: their "
                f"hashes differ in {found.bits} bits, more than {self.hash_distance} were expected"
            )

    def _contents_of(self, rows: Sequence[str]) -> list[str]:
        contents = self.contents
        return [contents[row] for row in rows if row in contents]


def missing_classes(rows: Dataset) -> list[int]:
    """The labels that no row has."""
    return sorted({0, 1} - {row.label for row in rows.rows})


def check_classes(name: str, rows: Dataset, remedy: str = NO_GROUPS) -> None:
    """Refuse a set without both classes.

    Args:
        name: of the set.
        rows: its rows.
        remedy: why groups are few, and what helps.

    Raises:
        DatasetError: a class is missing.
    """
    if missing_classes(rows):
        positives = int(rows.labels.sum())
        raise DatasetError(f"{name} would have {positives} roadwork images of {len(rows)}: {remedy}")


def compared_within(sets: Mapping[Split, SplitSet], hash_distance: int | None) -> int:
    """Bits up to which the most similar pictures of so many rows are looked for."""
    rows = sum(len(split.rows) for split in sets.values())
    return HASH_BITS if rows <= ALL_COMPARED else hash_distance or 0


def nearest_of(sets: Mapping[Split, SplitSet], within: int, chains: Mapping[str, int] | None = None) -> Nearest | None:
    """The two most similar pictures of different sets, None if every two of them differ in more bits than `within`.

    Args:
        sets: the sets.
        within: pairs that differ in more bits are not looked for.
        chains: a number for each hash, if those of two numbers are known to differ in more bits than `within`.
    """
    hashed = [(name, row.row, row.phash) for name, split in sets.items() for row in split.rows if row.phash is not None]
    if chains is not None:
        homes: dict[int, set[Split]] = {}
        for name, _, phash in hashed:
            homes.setdefault(chains[phash], set()).add(name)
        hashed = [one for one in hashed if len(homes[chains[one[2]]]) > 1]
    if not hashed:
        return None
    names = list(sets)
    parts = np.asarray([names.index(name) for name, _, _ in hashed], dtype=np.intp)
    best = nearest_apart(words_of([phash for _, _, phash in hashed]), parts, within)
    if best is None:
        return None
    bits, *places = best
    (first, one, _), (second, other, _) = (hashed[place] for place in places)
    return Nearest(bits=bits, rows=(one, other), sets=(first, second))


def _check_groups(what: str, parts: Mapping[str, Sequence[str]]) -> None:
    home: dict[str, str] = {}
    for part, groups in parts.items():
        for group in groups:
            if home.setdefault(group, part) != part:
                raise DatasetError(f"{what} {group!r} is in {home[group]} and in {part}")


def _first_twice(ids: Sequence[str]) -> str:
    def repeated() -> Iterator[str]:
        seen: set[str] = set()
        for row in ids:
            if row in seen:
                yield row
            seen.add(row)

    return next(repeated())

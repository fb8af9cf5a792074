"""`splits.json`: which row is in which set, and the proof that no two sets have anything in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from offline.data.checks.perceptual_hash import nearest, words_of
from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.splits.settings import Split
from stage1.artifacts import Artifact


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
    """

    row: str
    reason: str


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
        sets: the four sets.
        folds: the folds of val_calib, as row ids.
        quarantined: rows that are in no set.
        nearest: the two most similar pictures of different sets; None if there is no such pair.
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
    sets: dict[Split, SplitSet]
    folds: tuple[tuple[str, ...], ...]
    quarantined: tuple[Quarantined, ...] = ()
    nearest: Nearest | None = None
    places: dict[Split, RevisitedPlaces] = Field(default_factory=dict)
    lost: LostRows = LostRows()
    unread_bundles: tuple[str, ...] = ()

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
                check_classes(part, rows)
            _check_groups("group", {part: rows.groups for part, rows in parts.items()})
            # What the labels file calls one group, whatever this file says of it.
            declared = {part: [data.by_id[row].group for row in rows.ids] for part, rows in parts.items()}
            _check_groups("declared group", declared)
            _check_groups("the file", {part: self._contents_of(rows.ids) for part, rows in parts.items()})
        found = nearest_of(self.sets)
        if self.hash_distance is not None and found is not None and found.bits <= self.hash_distance:
            raise DatasetError(
                f"{found.rows[0]!r} of {found.sets[0]} and {found.rows[1]!r} of {found.sets[1]} look the same: their "
                f"hashes differ in {found.bits} bits, more than {self.hash_distance} were expected"
            )

    def _contents_of(self, rows: Sequence[str]) -> list[str]:
        contents = self.contents
        return [contents[row] for row in rows if row in contents]


def check_classes(name: str, rows: Dataset, why: str = "") -> None:
    """Refuse a set without both classes.

    Args:
        name: of the set.
        rows: its rows.
        why: what made groups few, to be told as well.

    Raises:
        DatasetError: a class is missing.
    """
    positives = int(rows.labels.sum())
    if not 0 < positives < len(rows):
        raise DatasetError(
            f"{name} would have {positives} roadwork images of {len(rows)}: too few groups; add data, or name finer "
            f"groups in the group column{why}"
        )


def nearest_of(sets: Mapping[Split, SplitSet]) -> Nearest | None:
    """The two most similar pictures of different sets."""
    hashed = {name: [row for row in split.rows if row.phash is not None] for name, split in sets.items()}
    words = {name: words_of([row.phash or "" for row in rows]) for name, rows in hashed.items()}
    found = [
        Nearest(bits=best[0], rows=(hashed[first][best[1]].row, hashed[second][best[2]].row), sets=(first, second))
        for first, second in combinations(sets, 2)
        if (best := nearest(words[first], words[second])) is not None
    ]
    return min(found, key=lambda pair: pair.bits, default=None)


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

"""`splits.json`: which row is in which set, and the proof that no two sets have anything in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from offline.data.checks.near_hashes import HASH_BITS
from offline.data.checks.perceptual_hash import nearest_apart, words_of
from offline.data.dataset import Dataset
from offline.errors import DatasetError
from offline.splits.settings import Split
from stage1.artifacts import Artifact

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
    """

    row: str
    group: str
    phash: str | None = None


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
        nearest: the two most similar pictures of different sets; None if there is no such pair, or if there are more
            than 16,384 rows and every two of different sets differ in more bits than `hash_distance`.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

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

    @cached_property
    def compared(self) -> Nearest | None:
        """What `nearest` must be, found now and not read from the file."""
        return nearest_of(self.sets, compared_within(self.sets, self.hash_distance))

    @property
    def groups(self) -> dict[str, str]:
        """Group of each row of the four sets."""
        return {row.row: row.group for split in self.sets.values() for row in split.rows}

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
        found = self.compared
        if self.hash_distance is not None and found is not None and found.bits <= self.hash_distance:
            raise DatasetError(
                f"{found.rows[0]!r} of {found.sets[0]} and {found.rows[1]!r} of {found.sets[1]} look the same: their "
                f"hashes differ in {found.bits} bits, more than {self.hash_distance} were expected"
            )


def check_classes(name: str, rows: Dataset) -> None:
    """Refuse a set without both classes.

    Raises:
        DatasetError: a class is missing.
    """
    positives = int(rows.labels.sum())
    if not 0 < positives < len(rows):
        raise DatasetError(
            f"{name} would have {positives} roadwork images of {len(rows)}: too few groups; add data, or name finer "
            "groups in the group column"
        )


def compared_within(sets: Mapping[Split, SplitSet], hash_distance: int | None) -> int:
    """Bits up to which the most similar pictures of so many rows are looked for."""
    rows = sum(len(split.rows) for split in sets.values())
    return HASH_BITS if rows <= ALL_COMPARED else hash_distance or 0


def nearest_of(sets: Mapping[Split, SplitSet], within: int) -> Nearest | None:
    """The two most similar pictures of different sets, None if every two of them differ in more bits than `within`."""
    hashed = [(name, row.row, row.phash) for name, split in sets.items() for row in split.rows if row.phash is not None]
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

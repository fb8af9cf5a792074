"""Group-aware stratified splits: a group is never in two of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from offline.dataset import Dataset
from offline.errors import DatasetError
from stage1.artifacts import Artifact

Split = Literal["train", "val_select", "val_calib", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

Bin = TypeVar("Bin")


class SplitSettings(BaseModel):
    """Shares of the splits and the seed of their draw.

    Attributes:
        seed: seed of the tie-breaking hash.
        train: share that trains.
        val_select: share that chooses checkpoints and the candidates of a calibration.
        val_calib: share that certifies.
        test: share that reports.
        calibration_folds: val_calib is cut into so many folds by group; a calibration uses the one used least.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    train: float = Field(default=0.5, gt=0, lt=1)
    val_select: float = Field(default=0.15, gt=0, lt=1)
    val_calib: float = Field(default=0.2, gt=0, lt=1)
    test: float = Field(default=0.15, gt=0, lt=1)
    calibration_folds: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = sum(self.shares.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train, val_select, val_calib and test sum to {total:g}, expected 1")
        return self

    @property
    def shares(self) -> dict[Split, float]:
        """Share of each split."""
        return {name: getattr(self, name) for name in SPLITS}


class SplitSet(BaseModel):
    """One split.

    Attributes:
        rows: row ids.
        groups: number of groups.
        positives: number of rows with roadwork.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: tuple[str, ...]
    groups: int
    positives: int


class Splits(Artifact):
    """`splits.json`.

    Attributes:
        seed: seed of the draw.
        data_sha256: hash of the data set that was split.
        sets: the four splits.
        folds: the folds of val_calib, as row ids.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    seed: int
    data_sha256: str
    sets: dict[Split, SplitSet]
    folds: tuple[tuple[str, ...], ...]

    def check(self, data: Dataset) -> None:
        """Assert that no row and no group is in two splits or two folds, against the data themselves.

        Raises:
            DatasetError: one is.
        """
        home: dict[str, Split] = {}
        for name, split in self.sets.items():
            for row in data.pick(split.rows).rows:
                if home.setdefault(row.group, name) != name:
                    raise DatasetError(f"group {row.group!r} is in {home[row.group]} and in {name}")
        rows = [row for split in self.sets.values() for row in split.rows]
        if len(rows) != len(set(rows)):
            raise DatasetError("a row is in two splits")
        if sorted(row for fold in self.folds for row in fold) != sorted(self.sets["val_calib"].rows):
            raise DatasetError("the folds of val_calib do not hold its rows, each once")
        folds: dict[str, int] = {}
        for number, fold in enumerate(self.folds):
            for row in data.pick(fold).rows:
                if folds.setdefault(row.group, number) != number:
                    raise DatasetError(f"group {row.group!r} is in two folds of val_calib")


def hash_key(seed: int, name: str) -> bytes:
    """An order of names that is the same on every machine."""
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def assign(sizes: Mapping[str, int], shares: Mapping[Bin, float], seed: int) -> dict[str, Bin]:
    """Place groups into bins so that each bin's rows approach its share.

    Largest groups first, ties by hash; each goes to the bin that lacks the largest part of its share.

    Args:
        sizes: rows of each group.
        shares: wanted share of each bin.
        seed: seed of the tie-breaking hash.
    """
    total = sum(sizes.values())
    filled = dict.fromkeys(shares, 0)
    placed: dict[str, Bin] = {}
    for group in sorted(sizes, key=lambda name: (-sizes[name], hash_key(seed, name))):
        target = max(shares, key=lambda name: (shares[name] * total - filled[name]) / (shares[name] * total))
        placed[group] = target
        filled[target] += sizes[group]
    return placed


def split(data: Dataset, settings: SplitSettings) -> Splits:
    """Split by group, each class separately, so that prevalence is alike in all four.

    A group with any roadwork is placed among the roadwork groups.

    Raises:
        DatasetError: a split would lack a class.
    """
    home = {
        group: name for sizes in _strata(data) for group, name in assign(sizes, settings.shares, settings.seed).items()
    }
    sets = {name: _describe(data, [row.image for row in data.rows if home[row.group] == name]) for name in SPLITS}
    for name, described in sets.items():
        _check_classes(f"split {name}", described)
    folds = _folds(data.pick(sets["val_calib"].rows), settings)
    for number, fold in enumerate(folds, start=1):
        _check_classes(f"fold {number} of {len(folds)}", _describe(data, fold))
    return Splits(seed=settings.seed, data_sha256=data.sha256, sets=sets, folds=folds)


def _check_classes(name: str, described: SplitSet) -> None:
    if not 0 < described.positives < len(described.rows):
        raise DatasetError(
            f"{name} would have {described.positives} roadwork images of {len(described.rows)}: too few groups; add "
            "data, or name finer groups in the group column"
        )


def _strata(data: Dataset) -> list[dict[str, int]]:
    sizes: dict[str, int] = defaultdict(int)
    positive: set[str] = set()
    for row in data.rows:
        sizes[row.group] += 1
        if row.label:
            positive.add(row.group)
    return [{g: n for g, n in sizes.items() if (g in positive) == side} for side in (True, False)]


def _describe(data: Dataset, ids: Sequence[str]) -> SplitSet:
    rows = data.pick(ids)
    return SplitSet(rows=tuple(ids), groups=len(set(rows.groups)), positives=int(rows.labels.sum()))


def _folds(calib: Dataset, settings: SplitSettings) -> tuple[tuple[str, ...], ...]:
    shares = dict.fromkeys(range(settings.calibration_folds), 1 / settings.calibration_folds)
    home = {g: fold for sizes in _strata(calib) for g, fold in assign(sizes, shares, settings.seed).items()}
    return tuple(tuple(r.image for r in calib.rows if home[r.group] == fold) for fold in shares)

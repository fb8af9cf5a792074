"""Looks as lines of a ledger that say what has changed since a line before, because most nights look at the same rows.

A fold of four thousand rows takes 600 kB if it is written out, and a year of nights 220 MB. Written as a change of an
earlier fold, which its hash names, it takes as much as the rows that came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from offline.errors import DatasetError
from stage1.artifacts import sha256_json

SHA256 = r"^[0-9a-f]{64}$"
KnownFrom = Literal["claim", "store"]
# So many of the latest folds are tried as the one that a line is a change of.
TRIED = 8


class LedgerEntry(BaseModel):
    """One look: these rows have been looked at by a certification. As a line of a ledger it is of version 3.

    Attributes:
        schema_version: version of this record.
        key: key of the calibration stage; the same key again is the same certification, resumed.
        rows: ids of the rows, sorted.
        contents: hashes of their files, sorted; without those that nobody knows.
        groups: their groups, sorted.
        level: the part of delta that it spent; None where nobody wrote that down.
        at: UTC, ISO 8601.
        known_from: the claim of a night in this workspace, or a bundle of the store that the workspace knew nothing of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[3] = 3
    key: str
    rows: tuple[str, ...]
    contents: tuple[str, ...] = ()
    groups: tuple[str, ...]
    level: float | None = Field(default=None, gt=0, lt=1)
    at: str
    known_from: KnownFrom = "claim"


class Change(BaseModel):
    """What a set of names has more and less than an earlier one, each sorted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    plus: tuple[str, ...] = ()
    minus: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.plus) + len(self.minus)

    @classmethod
    def of(cls, before: Iterable[str], after: Iterable[str]) -> Change:
        """The change from one set to another."""
        old, new = set(before), set(after)
        return cls(plus=tuple(sorted(new - old)), minus=tuple(sorted(old - new)))


class CompactLook(BaseModel):
    """A line of a ledger, version 4: a `LedgerEntry` as the change of a fold that an earlier line named.

    Attributes:
        schema_version: version of this record.
        key: as in `LedgerEntry`.
        fold: hash of `base` and the changes, by which later lines name this fold; `base` itself if nothing changes.
        base: hash of the fold that the changes are of; None for the empty one.
        rows: change of the ids of the rows.
        contents: change of the hashes of their files.
        groups: change of their groups.
        level: as in `LedgerEntry`.
        at: UTC, ISO 8601.
        known_from: as in `LedgerEntry`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[4] = 4
    key: str
    fold: str = Field(pattern=SHA256)
    base: str | None = Field(default=None, pattern=SHA256)
    rows: Change = Change()
    contents: Change = Change()
    groups: Change = Change()
    level: float | None = Field(default=None, gt=0, lt=1)
    at: str
    known_from: KnownFrom = "claim"


LOOKS: TypeAdapter[LedgerEntry | CompactLook] = TypeAdapter(
    Annotated[LedgerEntry | CompactLook, Field(discriminator="schema_version")]
)


class _Fold(NamedTuple):
    rows: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


class _Changes(NamedTuple):
    rows: Change
    contents: Change
    groups: Change

    @classmethod
    def of(cls, before: _Fold, after: _Fold) -> _Changes:
        return cls(*(Change.of(old, new) for old, new in zip(before, after, strict=True)))

    @property
    def names(self) -> int:
        return sum(map(len, self))

    def sha256(self, base: str | None) -> str:
        if base is not None and not self.names:
            return base
        return sha256_json([base, *(change.model_dump(mode="json") for change in self)])


class FoldBook:
    """The folds that the lines of one ledger have named so far; each name is kept once, however many lines have it."""

    def __init__(self) -> None:
        # The latest last.
        self._folds: OrderedDict[str, _Fold] = OrderedDict()
        self._names: dict[str, str] = {}

    def entries(self, lines: Iterable[LedgerEntry | CompactLook], where: object) -> Iterator[LedgerEntry]:
        """The looks of some lines, in order.

        Args:
            lines: of either version.
            where: how to name the ledger in an error.

        Raises:
            DatasetError: a line is the change of a fold that no line before it has, or does not come to the fold whose
                hash it names.
        """
        for line in lines:
            if isinstance(line, LedgerEntry):
                yield self._whole(line)
            else:
                fold = self._changed(line, where)
                yield LedgerEntry.model_construct(
                    key=line.key, level=line.level, at=line.at, known_from=line.known_from, **fold._asdict()
                )

    def compact(self, entry: LedgerEntry) -> CompactLook:
        """The line for a look, as the change of the nearest of the latest folds."""
        fold = _sorted(entry)
        ways = [(base, _Changes.of(self._folds[base], fold)) for base in islice(reversed(self._folds), TRIED)]
        base, changes = min([*ways, (None, _Changes.of(_Fold(), fold))], key=lambda way: way[1].names)
        sha256 = changes.sha256(base)
        self._keep(sha256, fold)
        return CompactLook(
            key=entry.key,
            fold=sha256,
            base=base,
            level=entry.level,
            at=entry.at,
            known_from=entry.known_from,
            **changes._asdict(),
        )

    def _whole(self, entry: LedgerEntry) -> LedgerEntry:
        for sha256 in islice(reversed(self._folds), TRIED):
            kept = self._folds[sha256]
            if kept == (entry.rows, entry.contents, entry.groups):
                self._folds.move_to_end(sha256)
                return entry.model_copy(update=kept._asdict())
        fold = _Fold(*map(self._once, _sorted(entry)))
        self._keep(_Changes.of(_Fold(), fold).sha256(None), fold)
        same = fold == (entry.rows, entry.contents, entry.groups)
        return entry.model_copy(update=fold._asdict()) if same else entry

    def _changed(self, line: CompactLook, where: object) -> _Fold:
        base = _Fold() if line.base is None else self._folds.get(line.base)
        if base is None:
            raise DatasetError(f"{where}: the look {line.key!r} changes a fold that no line before it has")
        changes = _Changes(line.rows, line.contents, line.groups)
        if changes.sha256(line.base) != line.fold:
            raise DatasetError(f"{where}: the look {line.key!r} does not come to the fold that it names")
        fold = _Fold(*(self._applied(names, change) for names, change in zip(base, changes, strict=True)))
        return self._keep(line.fold, fold)

    def _applied(self, names: tuple[str, ...], change: Change) -> tuple[str, ...]:
        if not change:
            return names
        gone = frozenset(change.minus)
        staying = [name for name in names if name not in gone] if gone else names
        return tuple(sorted((*staying, *self._once(change.plus))))

    def _once(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(self._names.setdefault(name, name) for name in names)

    def _keep(self, sha256: str, fold: _Fold) -> _Fold:
        kept = self._folds.setdefault(sha256, fold)
        self._folds.move_to_end(sha256)
        return kept


def _sorted(entry: LedgerEntry) -> _Fold:
    return _Fold(*(tuple(sorted(set(names))) for names in (entry.rows, entry.contents, entry.groups)))

"""Folds of val_calib: which rows the next certification may look at, and what it may spend there.

A fold is opened by its first look and can be looked at as long as delta lasts. Rows that have come since join it, until
there are enough of them to be a fold of their own: then they stay fresh, with all of delta to spend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from offline.certify.compact_look import LedgerEntry
from offline.splits.splits_file import Splits
from stage1.certificate.budget import Budget, spent_on
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import trials_needed


@dataclass(frozen=True)
class Fold:
    """Rows that a certification may look at.

    Attributes:
        rows: their ids.
        uses: certifications that looked at some of their groups before.
        spent: the part of delta that those spent.
        from_store: how many of them are known from bundles of the store alone.
        opened_at: when the first of them looked, UTC, ISO 8601; empty if there was none, or nobody knows.
    """

    rows: tuple[str, ...]
    uses: int = 0
    spent: float = 0.0
    from_store: int = 0
    opened_at: str = ""

    def opened_since(self, since: datetime) -> bool:
        """Whether nothing is known to have looked at it before some time."""
        return not self.uses or (self.opened_at != "" and datetime.fromisoformat(self.opened_at) >= since)


def folds_on_offer(
    splits: Splits,
    earlier: Sequence[LedgerEntry],
    *,
    delta: float,
    enough: Callable[[Sequence[str]], bool],
) -> list[Fold]:
    """The folds that the next certification may choose from.

    Args:
        splits: cuts val_calib into parts, and no fold reaches over two.
        earlier: the certifications so far, in order.
        delta: of this certification; says what an entry spent that does not say so itself.
        enough: whether rows that nothing has looked at could certify anything by themselves.
    """
    group_of, contents = splits.groups, splits.contents
    levels = _levels(earlier, delta)
    found = []
    for part in splits.folds:
        opened = _opened(part, group_of, contents, earlier)
        known = set[str]().union(*(fold.groups for fold in opened))
        fresh = tuple(row for row in part if group_of[row] not in known)
        alone = not opened or enough(fresh)
        if alone and fresh:
            found.append(Fold(fresh))
        for fold in opened:
            rows = (row for row in part if group_of[row] in fold.groups or (not alone and group_of[row] not in known))
            spent = math.fsum(levels[key] for key in fold.keys)
            found.append(Fold(tuple(rows), len(fold.keys), spent, len(fold.from_store), fold.at))
    return found


def opened_since(offers: Sequence[Fold], alarm: datetime | None) -> list[Fold]:
    """The folds that nothing had looked at when an alarm was raised; all where there are none, or was no alarm.

    The others are mostly of rows from before, on which no certificate takes the place of the one that was revoked.
    """
    found = [fold for fold in offers if alarm is not None and fold.opened_since(alarm)]
    return found or list(offers)


def most_powerful(offers: Sequence[Fold], units: Callable[[Sequence[str]], int], settings: CalibrationSettings) -> Fold:
    """The fold on which a certification is most likely to succeed.

    That is the one with the most independent units for each that it takes without a loss; of equal ones the least used.
    Where nothing is left to spend, the largest.

    Args:
        offers: at least one.
        units: how many independent units of the kind that is counted some rows hold.
        settings: what is to be certified.
    """

    def power(fold: Fold) -> tuple[float, int, int]:
        budget = budget_of(fold, settings)
        held = units(fold.rows)
        needed = trials_needed(0, settings.alpha, budget.level)
        return held / needed if budget.affordable else 0.0, -fold.uses, held

    return max(offers, key=power)


def budget_of(fold: Fold, settings: CalibrationSettings) -> Budget:
    """What a certification may spend on a fold."""
    return Budget(settings.spending, settings.delta, settings.looks, fold.uses, fold.spent)


@dataclass(frozen=True)
class _Opened:
    """Groups that have been looked at together, so that they share one delta, and who looked at them."""

    groups: frozenset[str]
    keys: frozenset[str]
    from_store: frozenset[str]
    at: str


def _opened(
    part: Sequence[str], group_of: Mapping[str, str], contents: Mapping[str, str], earlier: Sequence[LedgerEntry]
) -> list[_Opened]:
    opened: list[_Opened] = []
    for entry in earlier:
        key, stored = frozenset({entry.key}), entry.known_from == "store"
        # Of a look that the store alone knows the ledger has the time at which it heard of it.
        at = "" if stored else entry.at
        found = _Opened(_looked_at(part, group_of, contents, entry), key, key if stored else frozenset(), at)
        for fold in [fold for fold in opened if fold.groups & found.groups]:
            opened.remove(fold)
            found = _Opened(
                found.groups | fold.groups,
                found.keys | fold.keys,
                found.from_store | fold.from_store,
                min(found.at, fold.at),
            )
        if found.groups:
            opened.append(found)
    return opened


def _looked_at(
    part: Sequence[str], group_of: Mapping[str, str], contents: Mapping[str, str], entry: LedgerEntry
) -> frozenset[str]:
    """Groups of these rows that a certification looked at; each may have got another name, or path, since."""
    rows, groups, files = frozenset(entry.rows), frozenset(entry.groups), frozenset(entry.contents)
    return frozenset(
        group_of[row] for row in part if row in rows or group_of[row] in groups or contents.get(row) in files
    )


def _levels(entries: Sequence[LedgerEntry], delta: float) -> dict[str, float]:
    """Level of each certification by its key.

    An entry without one is of a program that gave the t-th use of some rows 6 / (pi t)^2 of delta.
    """
    levels: dict[str, float] = {}
    for number, entry in enumerate(entries):
        level = entry.level
        if level is None:
            groups = frozenset(entry.groups)
            before = {other.key for other in entries[:number] if groups.intersection(other.groups)} - {entry.key}
            level = spent_on(delta, len(before))
        levels.setdefault(entry.key, level)
    return levels

"""Folds of val_calib: which rows the next certification may look at, and what it may spend there.

A fold is opened by its first look and can be looked at as long as delta lasts. Rows that have come since join it, until
there are enough of them to be a fold of their own: then they stay fresh, with all of delta to spend.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from offline.certify.calibration_ledger import LedgerEntry
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
    """

    rows: tuple[str, ...]
    uses: int = 0
    spent: float = 0.0


def folds_on_offer(
    parts: Sequence[Sequence[str]],
    group_of: Mapping[str, str],
    earlier: Sequence[LedgerEntry],
    *,
    delta: float,
    enough: Callable[[Sequence[str]], bool],
) -> list[Fold]:
    """The folds that the next certification may choose from.

    Args:
        parts: the declared parts of val_calib, as row ids; no fold reaches over two.
        group_of: group of each row.
        earlier: the certifications so far, in order.
        delta: of this certification; says what an entry spent that does not say so itself.
        enough: whether rows that nothing has looked at could certify anything by themselves.
    """
    levels = _levels(earlier, delta)
    return [fold for part in parts for fold in _of_part(part, group_of, earlier, levels, enough)]


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


def _of_part(
    part: Sequence[str],
    group_of: Mapping[str, str],
    earlier: Sequence[LedgerEntry],
    levels: Mapping[str, float],
    enough: Callable[[Sequence[str]], bool],
) -> list[Fold]:
    opened: list[tuple[set[str], set[str]]] = []
    for entry in earlier:
        groups = _looked_at(part, group_of, entry)
        keys = {entry.key}
        # What has been looked at together shares one delta.
        for fold in [fold for fold in opened if fold[0] & groups]:
            opened.remove(fold)
            groups, keys = groups | fold[0], keys | fold[1]
        if groups:
            opened.append((groups, keys))
    known = set[str]().union(*(groups for groups, _ in opened))
    fresh = tuple(row for row in part if group_of[row] not in known)
    alone = not opened or enough(fresh)
    found = [Fold(fresh)] if alone and fresh else []
    for groups, keys in opened:
        rows = (row for row in part if group_of[row] in groups or (not alone and group_of[row] not in known))
        found.append(Fold(tuple(rows), len(keys), math.fsum(levels[key] for key in keys)))
    return found


def _looked_at(part: Sequence[str], group_of: Mapping[str, str], entry: LedgerEntry) -> set[str]:
    """Groups of these rows that a certification looked at; by row too, as a group may have got another name since."""
    rows, groups = frozenset(entry.rows), frozenset(entry.groups)
    return {group_of[row] for row in part if row in rows or group_of[row] in groups}


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

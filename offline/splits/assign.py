"""Splitting: groups that were placed stay, and new ones are placed so that each set gets its share of every stratum.

Everything here is a pure function of the rows, their looks and difficulty, the ledger and the settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits.balanced_placement import place
from offline.splits.homes import Group, Settling
from offline.splits.settings import SPLITS, SplitSettings
from offline.splits.split_ledger import Assignment, Event, Home, Ledger, StrataCut
from offline.splits.splits_file import Quarantined, SplitRow, Splits, SplitSet, check_classes

CLASSES = ("no roadwork", "roadwork")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Looks:
    """What is known of the pictures themselves.

    Attributes:
        hashes: perceptual hash of each row; None for a blank picture.
        scorer: name of the frozen scorer of difficulty.
        difficulty: of each examined row; larger is more difficult.
    """

    hashes: Mapping[str, str | None]
    scorer: str
    difficulty: Mapping[str, float]


def examined(data: Dataset, settings: SplitSettings) -> Dataset:
    """The rows that may be in any set: those that are not train-only, by themselves or by their source."""
    return Dataset(data.root, tuple(row for row in data.rows if not _train_only(row, settings)))


def _train_only(row: Row, settings: SplitSettings) -> bool:
    return row.train_only or row.source in settings.train_only


def split(
    data: Dataset,
    looks: Looks,
    ledger: Ledger,
    settings: SplitSettings,
    at: str,
    *,
    data_sha256: str | None = None,
) -> tuple[Splits, list[Event]]:
    """Split by group.

    Args:
        data: all rows, in any order.
        looks: hashes of all rows and the difficulty of the examined ones.
        ledger: what was placed before.
        settings: shares, grouping and strata.
        at: time to write down.
        data_sha256: hash of the whole data, of which these are the usable rows; None if they are all.

    Returns:
        The splits, and the events to append to the ledger, in this order, before anybody uses the splits.

    Raises:
        DatasetError: a set would lack a class, or the difficulty bins were cut for another scorer.
    """
    judged = examined(data, settings)
    cut = _cut(looks, judged, ledger, settings, at)
    strata = {row.image: stratum(row, looks.difficulty[row.image], cut, settings) for row in judged.rows}
    groups, left_out = Settling(looks.hashes, ledger, settings).settle(judged.rows)
    groups = _place_all(groups, strata, settings)
    events: list[Event] = [] if settings.strata_version in ledger.cuts else [cut]
    events += _assignments(groups, ledger, settings, at)
    extras = [row for row in data.rows if _train_only(row, settings)]
    if extras:
        # After the others have names, so that a run that is killed in between gives them the same ones again.
        settled = ledger.after(events)
        groups, refused = Settling(looks.hashes, settled, settings).admit(groups, extras)
        left_out |= refused
        events += _assignments(groups, settled, settings, at)
    sets = {name: _describe([g for g in groups if g.home and g.home.split == name], strata, looks) for name in SPLITS}
    for name, described in sets.items():
        check_classes(name, data.pick(described.ids))
    splits = Splits(
        seed=settings.seed,
        data_sha256=data_sha256 or data.sha256,
        hash_distance=settings.hash_distance,
        scorer=cut.scorer,
        strata_version=cut.strata_version,
        edges=cut.edges,
        sets=sets,
        folds=_folds(groups),
        quarantined=tuple(Quarantined(row=row, reason=why) for row, why in sorted(left_out.items())),
    )
    # What it has compared by itself is kept by the copy, and need not be compared again.
    return splits.model_copy(update={"nearest": splits.compared}), events


def stratum(row: Row, difficulty: float, cut: StrataCut, settings: SplitSettings) -> str:
    """What a row is balanced by: class, bin of difficulty, metadata; for example `roadwork/3/night/rain`."""
    level = int(np.searchsorted(cut.edges, difficulty, side="right"))
    return "/".join((CLASSES[row.label], str(level), *(row.about(column) or UNKNOWN for column in settings.strata)))


def _cut(looks: Looks, judged: Dataset, ledger: Ledger, settings: SplitSettings, at: str) -> StrataCut:
    cut = ledger.cuts.get(settings.strata_version)
    if cut is None:
        inner = np.arange(1, settings.difficulty_bins) / settings.difficulty_bins
        edges = tuple(np.quantile([looks.difficulty[row] for row in judged.ids] or [0.0], inner).tolist())
        return StrataCut(strata_version=settings.strata_version, scorer=looks.scorer, edges=edges, at=at)
    asked = looks.scorer, settings.difficulty_bins
    if (cut.scorer, len(cut.edges) + 1) != asked:
        raise DatasetError(
            f"strata_version {cut.strata_version} was cut into {len(cut.edges) + 1} bins by {cut.scorer!r}, the "
            f"settings ask for {asked[1]} by {asked[0]!r}; raise splits.strata_version to cut anew"
        )
    return cut


def _place_all(groups: Sequence[Group], strata: Mapping[str, str], settings: SplitSettings) -> list[Group]:
    """Give a home to every group; those that get one come last, in the order of placing."""
    contents = {group.name: _contents(group.rows, strata) for group in groups}
    by_name = {group.name: group for group in groups}
    homes = {group.name: group.home for group in groups if group.home is not None}
    new = {name: what for name, what in contents.items() if name not in homes}
    known = {name: _sum(contents[g] for g, home in homes.items() if home.split == name) for name in SPLITS}
    sets = place(new, settings.shares, settings.seed, placed=known, needed=CLASSES[::-1])
    certifying = {name: what for name, what in new.items() if sets[name] == "val_calib"}
    numbers = range(settings.calibration_folds)
    shares = dict.fromkeys(numbers, 1 / settings.calibration_folds)
    before = {n: _sum(contents[g] for g, home in homes.items() if home == Home("val_calib", n)) for n in numbers}
    folds = place(certifying, shares, settings.seed, placed=before, needed=CLASSES[::-1])
    homes |= {name: Home(where, folds.get(name)) for name, where in sets.items()}
    return [Group(name, by_name[name].rows, home) for name, home in homes.items()]


def _contents(rows: Iterable[Row], strata: Mapping[str, str]) -> Counter[str]:
    """Rows by class and by stratum."""
    return Counter(kind for row in rows for kind in (CLASSES[row.label], strata[row.image]))


def _sum(parts: Iterable[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for part in parts:
        total.update(part)
    return total


def _assignments(groups: Sequence[Group], ledger: Ledger, settings: SplitSettings, at: str) -> list[Event]:
    """An event for every group with rows that the ledger does not know, in order."""
    events: list[Event] = []
    for group in groups:
        rows = tuple(row.image for row in group.rows if row.image not in ledger.groups)
        if rows and group.home is not None:
            events.append(
                Assignment(
                    group=group.name,
                    split=group.home.split,
                    fold=group.home.fold,
                    rows=rows,
                    first_seen=at,
                    strata_version=settings.strata_version,
                )
            )
    return events


def _describe(groups: Sequence[Group], strata: Mapping[str, str], looks: Looks) -> SplitSet:
    owned = sorted(((row, group.name) for group in groups for row in group.rows), key=lambda pair: pair[0].image)
    positives = sum(row.label for row, _ in owned)
    judged = [row.image for row, _ in owned if row.image in strata]
    marks = np.quantile([looks.difficulty[row] for row in judged], np.arange(5) / 4) if judged else np.empty(0)
    return SplitSet(
        rows=tuple(SplitRow(row=row.image, group=name, phash=looks.hashes[row.image]) for row, name in owned),
        groups=len(groups),
        positives=positives,
        class_balance=positives / len(owned) if owned else None,
        difficulty=tuple(marks.tolist()),
        strata=dict(sorted(Counter(strata[row] for row in judged).items())),
    )


def _folds(groups: Sequence[Group]) -> tuple[tuple[str, ...], ...]:
    """The folds of val_calib; one that lacks a class certifies nothing, so it is taken together with the next."""
    numbered: dict[int, list[Row]] = {}
    for group in groups:
        if group.home is not None and group.home.fold is not None:
            numbered.setdefault(group.home.fold, []).extend(group.rows)
    folds: list[list[Row]] = []
    for _, rows in sorted(numbered.items()):
        if folds and _lacks_a_class(folds[-1]):
            folds[-1] += rows
        else:
            folds.append(rows)
    if len(folds) > 1 and _lacks_a_class(folds[-1]):
        last = folds.pop()
        folds[-1] += last
    return tuple(tuple(sorted(row.image for row in rows)) for rows in folds)


def _lacks_a_class(rows: Sequence[Row]) -> bool:
    return len({row.label for row in rows}) < 2

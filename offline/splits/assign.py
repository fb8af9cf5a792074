"""Splitting: groups that were placed stay, and new ones are placed so that each set gets its share of every stratum.

Everything here is a pure function of the rows, their looks and difficulty, the ledger and the settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from offline.data.checks.likeness import Likeness
from offline.data.dataset import Dataset, Row
from offline.data.inventory import inventory_of
from offline.data.values import word
from offline.errors import DatasetError
from offline.splits.balanced_placement import place
from offline.splits.homes import Group, Settling
from offline.splits.lost_rows import lost_rows
from offline.splits.revisited_places import revisited
from offline.splits.settings import EXAMS, SPLITS, Split, SplitSettings
from offline.splits.split_ledger import Assignment, Event, Home, Ledger, PlacedRow, StrataCut
from offline.splits.splits_file import (
    Quarantined,
    RevisitedPlaces,
    SplitRow,
    Splits,
    SplitSet,
    check_classes,
    compared_within,
    nearest_of,
)
from offline.splits.store_history import StoreHistory, barred, restored

CLASSES = ("no roadwork", "roadwork")
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Looks:
    """What is known of the pictures themselves.

    Attributes:
        hashes: perceptual hash of each row; None for a blank picture.
        scorer: name of the frozen scorer of difficulty.
        difficulty: of each examined row; larger is more difficult.
        contents: hash of the file of each row, by which it is known again; without it, by its path.
    """

    hashes: Mapping[str, str | None]
    scorer: str
    difficulty: Mapping[str, float]
    contents: Mapping[str, str] = field(default_factory=dict)


def examined(data: Dataset, settings: SplitSettings) -> Dataset:
    """The rows that may be in any set: those that are not train-only, by themselves or by their source."""
    return Dataset(data.root, tuple(row for row in data.rows if not _train_only(row, settings)))


def _train_only(row: Row, settings: SplitSettings) -> bool:
    return row.train_only or row.source in settings.training_sources


def split(
    data: Dataset,
    looks: Looks,
    ledger: Ledger,
    settings: SplitSettings,
    at: str,
    *,
    data_sha256: str | None = None,
    history: StoreHistory | None = None,
) -> tuple[Splits, list[Event]]:
    """Split by group.

    Args:
        data: all rows, in any order.
        looks: hashes of all rows and the difficulty of the examined ones.
        ledger: what was placed before.
        settings: shares, grouping and strata.
        at: time to write down.
        data_sha256: hash of the whole data, of which these are the usable rows; None if they are all.
        history: what the bundles of the store were made of; None if there is no store.

    Returns:
        The splits, and the events to append to the ledger, in this order, before anybody uses the splits.

    Raises:
        DatasetError: a set would lack a class, or the difficulty bins were cut for another scorer.
    """
    judged = examined(data, settings)
    history = history or StoreHistory()
    events = restored(history, ledger, settings.strata_version, at)
    ledger = ledger.after(events)
    known = ledger.in_names_of(data.ids, looks.contents)
    cut = _cut(looks, judged, ledger, settings, at)
    strata = {row.image: stratum(row, looks.difficulty[row.image], cut, settings) for row in judged.rows}
    likeness = Likeness(looks.hashes, settings.hash_distance)
    groups, left_out = Settling(likeness, looks.contents, known, settings).settle(judged.rows)
    left_out |= (barring := barred(history, groups, looks.contents))
    groups = [group for group in groups if group.rows[0].image not in barring]
    few = _why_few(groups, left_out, ledger, settings)
    groups = _place_all(groups, strata, settings)
    placing: list[Event] = [] if settings.strata_version in ledger.cuts else [cut]
    placing += _assignments(groups, looks, ledger, settings, at)
    extras = [row for row in data.rows if _train_only(row, settings)]
    if extras:
        # After the others have names, so that a run that is killed in between gives them the same ones again.
        settled = ledger.after(placing)
        named = settled.in_names_of(data.ids, looks.contents)
        groups, refused = Settling(likeness, looks.contents, named, settings).admit(groups, extras)
        left_out |= refused
        placing += _assignments(groups, looks, settled, settings, at)
    sets = {name: _describe([g for g in groups if g.home and g.home.split == name], strata, looks) for name in SPLITS}
    try:
        for name, described in sets.items():
            check_classes(name, data.pick(described.ids), few)
    except DatasetError as error:
        # Most often one value joins half of the rows.
        raise DatasetError(f"{error}; {inventory_of(judged, settings.sequence_columns).joins_most}") from error
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
        places=_places(data, sets, settings),
        lost=lost_rows(ledger.after(placing), sets["val_calib"]),
        unread_bundles=history.unread,
    )
    within = compared_within(sets, settings.hash_distance)
    found = nearest_of(sets, within, likeness.chains if within == settings.hash_distance else None)
    # Both, so that whoever checks these splits need not look for it again; a file that is read is looked through.
    return splits.model_copy(update={"nearest": found, "compared": found}), [*events, *placing]


def _why_few(groups: Sequence[Group], left_out: Mapping[str, str], ledger: Ledger, settings: SplitSettings) -> str:
    """What the grouping kept from the exams, for the error that says that too little is left."""
    known = ledger.homes.keys()
    chained = sum(len(group.rows) for group in groups if group.home is not None and group.name not in known)
    told = ""
    if left_out:
        row, why = min(left_out.items())
        told = f"; {len(left_out)} rows are left out, for example {row!r}: {why}"
    if chained:
        told += (
            f"; {chained} rows only train, because drives tie more than splits.roadwork_chain = "
            f"{settings.roadwork_chain} visits to roadwork together; a larger one, or a smaller splits.roadwork_days "
            "or splits.gps_cell_m, lets them into the exams"
        )
    return told


def _places(data: Dataset, sets: Mapping[Split, SplitSet], settings: SplitSettings) -> dict[Split, RevisitedPlaces]:
    """How many places of each exam are in train as well; nothing where places are not read."""
    if settings.gps_cell_m is None:
        return {}
    train = data.pick(sets["train"].ids).rows
    return {name: revisited(data.pick(sets[name].ids).rows, train, settings.gps_cell_m) for name in EXAMS}


def stratum(row: Row, difficulty: float, cut: StrataCut, settings: SplitSettings) -> str:
    """What a row is balanced by: class, bin of difficulty, metadata; for example `roadwork/3/night/rain`."""
    level = int(np.searchsorted(cut.edges, difficulty, side="right"))
    known = (word(row.about(column) or UNKNOWN) for column in settings.strata)
    return "/".join((CLASSES[row.label], str(level), *known))


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


def _assignments(
    groups: Sequence[Group], looks: Looks, ledger: Ledger, settings: SplitSettings, at: str
) -> list[Event]:
    """An event for every group with rows that the ledger does not know with this content, in order."""
    events: list[Event] = []
    for group in groups:
        rows = tuple(
            PlacedRow(row=row.image, sha256=content, label=row.label)
            for row in group.rows
            if (row.image, content := looks.contents.get(row.image)) not in ledger.placed
        )
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
        rows=tuple(
            SplitRow(
                row=row.image,
                group=name,
                phash=looks.hashes[row.image],
                sha256=looks.contents.get(row.image),
                label=row.label,
            )
            for row, name in owned
        ),
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

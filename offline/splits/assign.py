"""Splitting: groups that were placed stay, and new ones are placed so that each set gets its share of every stratum.

Everything here is a pure function of the rows, their looks and difficulty, the ledger and the settings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from offline.data.checks.likeness import Likeness
from offline.data.dataset import Dataset, Row
from offline.data.inventory import inventory_of
from offline.data.values import word
from offline.splits.balanced_placement import place
from offline.splits.homes import Group, Settling
from offline.splits.lost_rows import absent_labels, lost_rows
from offline.splits.revisited_places import revisited
from offline.splits.settings import EXAMS, SPLITS, Split, SplitSettings
from offline.splits.split_ledger import Assignment, CutKey, Event, Home, Ledger, PlacedRow, StrataCut
from offline.splits.splits_file import (
    NO_GROUPS,
    LongChains,
    OtherCut,
    Quarantined,
    QuarantineKind,
    RevisitedPlaces,
    SplitRow,
    Splits,
    SplitSet,
    check_classes,
    compared_within,
    missing_classes,
    nearest_of,
)
from offline.splits.store_history import StoreHistory, barred, restored

CLASSES = ("no roadwork", "roadwork")
UNKNOWN = "unknown"
# What lets rows into a set again, by the reason for which they are left out.
HELPS: dict[QuarantineKind, str] = {
    "ties two sets": "mend what ties them: a group, an id in splits.sequence_columns, a place, or splits.hash_distance",
    "spent": "nothing lets them certify again",
    "only trains": "leave those out that may only train, if they are the same drives",
}


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
    return data.only([row for row in data.rows if not _train_only(row, settings)])


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
        DatasetError: a set would lack a class.
    """
    judged = examined(data, settings)
    history = history or StoreHistory()
    events = restored(history, ledger, settings.strata_version, at)
    ledger = ledger.after(events)
    known = ledger.in_names_of(data.ids, looks.contents)
    cut = _cut(looks, judged, ledger, settings, at)
    strata = {row.image: stratum(row, looks.difficulty[row.image], cut, settings) for row in judged.rows}
    likeness = Likeness(looks.hashes, settings.hash_distance)
    declared = {group for group, rows in Counter(row.group for row in data.rows).items() if rows > 1}
    settling = Settling(likeness, looks.contents, known, settings, declared)
    groups, ties = settling.settle(judged.rows)
    left_out = _quarantined("ties two sets", ties)
    barring = barred(history, groups, looks.contents)
    left_out += _quarantined("spent", barring)
    groups = [group for group in groups if group.rows[0].image not in barring]
    chains = _chains(groups)
    at_first, groups = groups, _place_all(groups, strata, settings)
    placing: list[Event] = [] if cut.key in ledger.cuts else [cut]
    placing += _assignments(groups, looks, ledger, settings, at)
    extras = [row for row in data.rows if _train_only(row, settings)]
    if extras:
        # After the others have names, so that a run that is killed in between gives them the same ones again.
        settled = ledger.after(placing)
        named = settled.in_names_of(data.ids, looks.contents)
        groups, refused = replace(settling, ledger=named).admit(groups, extras)
        left_out += _quarantined("only trains", refused)
        placing += _assignments(groups, looks, settled, settings, at)
    sets = {name: _describe([g for g in groups if g.home and g.home.split == name], strata, looks) for name in SPLITS}
    night = _Night(data, looks, ledger, settings, at_first, left_out)
    for name, described in sets.items():
        rows = data.pick(described.ids)
        if lacking := missing_classes(rows):
            check_classes(name, rows, night.remedy(name, lacking))
    splits = Splits(
        seed=settings.seed,
        data_sha256=data_sha256 or data.sha256,
        hash_distance=settings.hash_distance,
        scorer=cut.scorer,
        strata_version=cut.strata_version,
        edges=cut.edges,
        other_cuts=_other_cuts(cut, ledger),
        sets=sets,
        folds=_folds(groups),
        quarantined=tuple(sorted(left_out, key=lambda one: one.row)),
        chains=chains,
        places=_places(data, sets, settings),
        lost=lost_rows(ledger.after(placing), sets["val_calib"]),
        unread_bundles=history.unread,
    )
    within = compared_within(sets, settings.hash_distance)
    found = nearest_of(sets, within, likeness.chains if within == settings.hash_distance else None)
    # Both, so that whoever checks these splits need not look for it again; a file that is read is looked through.
    return splits.model_copy(update={"nearest": found, "compared": found}), [*events, *placing]


def _quarantined(kind: QuarantineKind, reasons: Mapping[str, str]) -> list[Quarantined]:
    return [Quarantined(row=row, reason=why, kind=kind) for row, why in reasons.items()]


def _chains(groups: Iterable[Group]) -> LongChains:
    """What only trains because the roadwork rule ties too much together."""
    long = [len(group.rows) for group in groups if group.chained]
    return LongChains(groups=len(long), rows=sum(long))


@dataclass(frozen=True)
class _Night:
    """What a night had to split, for the error that says why a set lacks a class and what helps.

    Attributes:
        data: all rows.
        looks: what is known of them.
        ledger: what was placed before.
        settings: of the split.
        groups: what may be in a set, with the homes that groups had before.
        left_out: what may be in none.
    """

    data: Dataset
    looks: Looks
    ledger: Ledger
    settings: SplitSettings
    groups: Sequence[Group]
    left_out: Sequence[Quarantined]

    def remedy(self, name: Split, lacking: Collection[int]) -> str:
        """What helps a set that lacks these labels: it depends on what keeps rows from it."""
        kind = " and ".join(CLASSES[label] for label in sorted(lacking, reverse=True))
        placed = sum(group.home is not None and group.name in self.ledger.homes for group in self.groups)
        new = len(self.groups) > placed
        first = NO_GROUPS
        if placed or self.left_out:
            finer = ", or name finer groups for the rows that are new" if new else ""
            first = (
                f"{placed} of {len(self.groups)} groups were placed by earlier nights and never move, whatever the "
                f"group column calls them: add drives or places with {kind} that no night has seen{finer}"
            )
        told = [
            first,
            *self._gone(name, lacking, kind),
            *self._left_out(name, lacking),
            *self._only_train(lacking, kind),
        ]
        if new:
            # Most often one value joins half of the rows.
            judged = examined(self.data, self.settings)
            told.append(inventory_of(judged, self.settings.sequence_columns).joins_most)
        return "; ".join(told)

    def _gone(self, name: Split, lacking: Collection[int], kind: str) -> list[str]:
        present = {*self.data.ids, *self.looks.contents.values()}
        gone = absent_labels(self.ledger, name, present)
        certain, unknown = sum(label in lacking for label in gone), gone.count(None)
        if not certain + unknown:
            return []
        perhaps = f", and {unknown} with a label that nobody wrote down" if unknown else ""
        told = f"{certain} rows with {kind}{perhaps} that earlier nights put there are gone or cannot be used"
        return [f"{told}: bring them back"]

    def _left_out(self, name: Split, lacking: Collection[int]) -> list[str]:
        told = []
        for why, helps in HELPS.items():
            rows = [one for one in self.left_out if one.kind == why and self.data.by_id[one.row].label in lacking]
            if rows and (why != "spent" or name == "val_calib"):
                first = min(rows, key=lambda one: one.row)
                told.append(f"{len(rows)} such rows are left out, for example {first.row!r}: {first.reason}; {helps}")
        return told

    def _only_train(self, lacking: Collection[int], kind: str) -> list[str]:
        told = []
        chained = [group for group in self.groups if group.chained and group.name not in self.ledger.homes]
        if chained:
            told.append(
                f"{sum(len(group.rows) for group in chained)} rows only train, because drives tie more than "
                f"splits.roadwork_chain = {self.settings.roadwork_chain} visits to roadwork together; a larger one, or "
                "a smaller splits.roadwork_days or splits.gps_cell_m, lets them into the exams"
            )
        extras = sum(row.label in lacking and _train_only(row, self.settings) for row in self.data.rows)
        if extras:
            told.append(
                f"{extras} rows with {kind} may only train, because of their source: see splits.train_only, "
                f"{', '.join(self.settings.train_only) or 'which is empty'}"
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
    """The bins for this version, scorer and number of bins: those of the ledger, or the quantiles of these rows.

    Bins only balance where new groups go, so other ones move nothing, and no night need wait for a person to ask for
    them.
    """
    key = CutKey(settings.strata_version, looks.scorer, settings.difficulty_bins)
    if key in ledger.cuts:
        return ledger.cuts[key]
    inner = np.arange(1, key.bins) / key.bins
    edges = tuple(np.quantile([looks.difficulty[row] for row in judged.ids] or [0.0], inner).tolist())
    return StrataCut(strata_version=key.strata_version, scorer=key.scorer, edges=edges, at=at)


def _other_cuts(cut: StrataCut, ledger: Ledger) -> tuple[OtherCut, ...]:
    """The other bins of the same version."""
    return tuple(
        OtherCut(scorer=other.scorer, bins=key.bins, at=other.at)
        for key, other in ledger.cuts.items()
        if key.strata_version == cut.strata_version and key != cut.key
    )


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
    return [replace(by_name[name], home=home) for name, home in homes.items()]


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
                    chained=group.chained and group.name not in ledger.homes,
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

"""What the bundles of the store did with rows: it outlives a workspace, and knows what other workspaces did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from engines.store.bundle import Manifest
from engines.store.bundle_record import records_of
from engines.store.file_names import MANIFEST, SPLITS
from offline.errors import DatasetError
from offline.splits.bundle_past import PastRow, read_past, read_past_rows
from offline.splits.homes import Group
from offline.splits.settings import Split
from offline.splits.split_ledger import FIRST, Assignment, Event, Home, Ledger, PlacedRow
from offline.splits.splits_file import Splits
from stage1.errors import ArtifactError

if TYPE_CHECKING:
    from engines.store.store import Store

SPENT: frozenset[Split] = frozenset({"train", "val_select"})


@dataclass(frozen=True)
class BundlePast:
    """What one bundle was made of.

    Attributes:
        bundle: its id.
        path: its directory.
        rows: its rows.
    """

    bundle: str
    path: Path
    rows: tuple[PastRow, ...]


@dataclass(frozen=True)
class StoreHistory:
    """What all bundles of a store were made of.

    Attributes:
        bundles: those that say it, oldest first.
        unread: ids of those whose `splits.json` is damaged or of another version.
        gone: rows of bundles that are gone by the id of a bundle; their certificates are accounted for elsewhere.
    """

    bundles: tuple[BundlePast, ...] = ()
    unread: tuple[str, ...] = ()
    gone: Mapping[str, tuple[PastRow, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> Iterator[tuple[str, PastRow]]:
        """Every row that is known of, with a bundle that was made of it, oldest first."""
        for bundle, rows in (*self.gone.items(), *((past.bundle, past.rows) for past in self.bundles)):
            for row in rows:
                yield bundle, row


def ask_store(store: Store) -> StoreHistory:
    """Read what the bundles of a store were made of, also those that are gone.

    A file with another hash than its manifest names says nothing.

    Raises:
        stage1.errors.ArtifactError: the manifest of a bundle is damaged.
    """
    found: list[BundlePast] = []
    unread: list[str] = []
    records = [path for path in records_of(store.root) if (path / SPLITS).exists()]
    for home in (*records, *(listed.path for listed in store.bundles())):
        try:
            rows = read_past(home / SPLITS)
            whole = Manifest.read(home / MANIFEST).holds(home / SPLITS)
        except ArtifactError:
            whole = False
        if whole:
            found.append(BundlePast(home.name, home, rows))
        else:
            unread.append(home.name)
    return StoreHistory(tuple(found), tuple(unread), read_past_rows(store.root))


def restored(history: StoreHistory, ledger: Ledger, strata_version: int, at: str) -> list[Event]:
    """Assignments of the rows that a bundle was made of and the ledger does not know: they are where they were.

    Where bundles differ, what a row did first matters most: what has trained or chosen never certifies.

    Args:
        history: what the bundles were made of.
        ledger: what was placed before.
        strata_version: version of the difficulty bins, to write down.
        at: time to write down.
    """
    missing: dict[str, PastRow] = {}
    for _, row in history.rows:
        if not _knows(ledger, row):
            key = row.sha256 or row.row
            missing[key] = min(missing.get(key, row), row, key=lambda one: FIRST.index(one.home.split))
    groups: dict[tuple[str, Home], list[PlacedRow]] = {}
    for row in missing.values():
        placed = PlacedRow(row=row.row, sha256=row.sha256, label=row.label)
        groups.setdefault((row.group, row.home), []).append(placed)
    homes = dict(ledger.homes)
    events: list[Event] = []
    for (group, home), rows in sorted(groups.items(), key=str):
        name = group
        while homes.setdefault(name, home) != home:
            # Another workspace has a group of this name elsewhere.
            name += f", in {home.split}" if home.fold is None else f", in fold {home.fold + 1} of {home.split}"
        events.append(
            Assignment(
                group=name,
                split=home.split,
                fold=home.fold,
                rows=tuple(sorted(rows, key=str)),
                first_seen=at,
                strata_version=strata_version,
            )
        )
    return events


def barred(history: StoreHistory, groups: Iterable[Group], contents: Mapping[str, str]) -> dict[str, str]:
    """The reason for each row of val_calib that may not certify: a bundle trained on its group, or chose by it.

    Args:
        history: what the bundles were made of.
        groups: all groups.
        contents: hash of the file of each row.
    """
    spent = _bundles_by_row(history)
    reasons: dict[str, str] = {}
    for group in groups:
        if group.home is None or group.home.split != "val_calib":
            continue
        for row in group.rows:
            bundle = spent.get(contents.get(row.image, ""), spent.get(row.image))
            if bundle is not None:
                why = f"bundle {bundle} of the store trained on {row.image!r} or chose by it, so it never certifies"
                reasons |= {one.image: why for one in group.rows}
                break
    return reasons


def check_unspent(history: StoreHistory, splits: Splits, stage: Path) -> None:
    """Make sure that no bundle trained on a row of val_calib, or chose by it, that came into the store after the split.

    Args:
        history: what the bundles were made of.
        splits: the sets.
        stage: directory of the stage that made them.

    Raises:
        DatasetError: one did.
    """
    spent = _bundles_by_row(history)
    for row in splits.sets["val_calib"].rows:
        bundle = spent.get(row.sha256 or "", spent.get(row.row))
        if bundle is not None:
            raise DatasetError(
                f"bundle {bundle} of the store trained on {row.row!r} or chose by it, and it is to certify; the bundle "
                f"came after the data were split: delete {stage} and run again"
            )


def _bundles_by_row(history: StoreHistory) -> dict[str, str]:
    """A bundle that trained on each row or chose by it, by the hash of its file, or else by its id."""
    return {row.sha256 or row.row: bundle for bundle, row in history.rows if row.home.split in SPENT}


def _knows(ledger: Ledger, row: PastRow) -> bool:
    return row.row in ledger.groups if row.sha256 is None else row.sha256 in ledger.contents

"""Rows that val_calib once had and has no more: whoever deletes what a model missed makes it look better."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from offline.splits.settings import Split
from offline.splits.split_ledger import Ledger
from offline.splits.splits_file import LostRows, SplitSet


def lost_rows(ledger: Ledger, val_calib: SplitSet) -> LostRows:
    """Count the contents that the ledger has in val_calib and that are not there now, whatever became of them.

    Args:
        ledger: what was ever placed, with the rows of this night.
        val_calib: the set of this night.
    """
    labels = _labels(ledger)
    now = {row.sha256 or row.row: row.label for row in val_calib.rows}
    gone = [label for key, label in labels.items() if key not in now]
    both = [(labels[key], label) for key, label in now.items() if labels.get(key) is not None and label is not None]
    return LostRows(
        rows=len(gone),
        roadwork=gone.count(1),
        unknown=gone.count(None),
        relabelled=sum(before != label for before, label in both),
    )


def absent_labels(ledger: Ledger, name: Split, present: Collection[str]) -> list[int | None]:
    """First label of every row that was ever placed in a set and is nowhere now; None where nobody wrote it down.

    Args:
        ledger: what was ever placed.
        name: of the set.
        present: ids of the rows that there are, and hashes of their files.
    """
    found: dict[str, int | None] = {}
    for (row, sha256), (group, label) in ledger.placed.items():
        if ledger.homes[group].split == name and row not in present and sha256 not in present:
            found.setdefault(sha256 or row, label)
    return list(found.values())


def lost_words(lost: LostRows) -> list[str]:
    """Sentences on the rows that val_calib once had; none if it has them all as they were."""
    told = []
    if lost.rows:
        unknown = f", and {lost.unknown} with an unknown label" if lost.unknown else ""
        told.append(
            f"Of the rows that val_calib once had {lost.rows} are gone, changed or left out, {lost.roadwork} with "
            f"roadwork{unknown}."
        )
    if lost.relabelled:
        told.append(f"Of those that are there {lost.relabelled} have another label than at first.")
    return told


def _labels(ledger: Ledger) -> Mapping[str, int | None]:
    """First label of every content that was ever in val_calib; a path stands for a content that nobody knows."""
    known = {row for row, sha256 in ledger.placed if sha256 is not None}
    labels: dict[str, int | None] = {}
    for (row, sha256), (group, label) in ledger.placed.items():
        if ledger.homes[group].split == "val_calib" and (sha256 is not None or row not in known):
            key = sha256 or row
            labels[key] = label if labels.get(key) is None else labels[key]
    return labels

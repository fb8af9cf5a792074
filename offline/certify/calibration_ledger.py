"""The calibration ledger: which rows certifications have looked at, and which fold the next one takes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter

from offline.data.chained_ledger import append_chain, read_chain
from offline.splits.splits_file import Splits

LEDGER = "calibration_ledger.jsonl"


class LedgerEntry(BaseModel):
    """One line of the calibration ledger: these rows have been looked at by a certification.

    Attributes:
        schema_version: version of this record.
        key: key of the calibration stage; the same key again is the same certification, resumed.
        rows: ids of the rows, sorted.
        contents: hashes of their files, sorted; without those that nobody knows.
        groups: their groups, sorted.
        at: UTC, ISO 8601.
        known_from: the claim of a night in this workspace, or a bundle of the store that the workspace knew nothing of.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[3] = 3
    key: str
    rows: tuple[str, ...]
    contents: tuple[str, ...] = ()
    groups: tuple[str, ...]
    at: str
    known_from: Literal["claim", "store"] = "claim"


_ENTRIES = TypeAdapter(LedgerEntry)


def read_certifications(workspace: Path) -> list[LedgerEntry]:
    """All certifications so far; a line that a crash cut short is ignored: its rows were not looked at.

    Raises:
        DatasetError: a line is not an entry of this version, or was edited.
    """
    return read_chain(workspace / LEDGER, _ENTRIES)


def claim_fold(workspace: Path, splits: Splits, key: str, at: str) -> tuple[tuple[str, ...], int]:
    """Take the fold of val_calib that has been used least, and write the use down before any row is looked at.

    Args:
        workspace: where the ledger is.
        splits: names the folds.
        key: key of the calibration stage.
        at: time to record.

    Returns:
        Row ids of the fold, and how many other certifications looked at any of its groups before.
    """
    ledger = read_certifications(workspace)
    group_of = splits.groups
    earlier = [entry for entry in ledger if entry.key != key]
    files = [contents_of(splits, fold) for fold in splits.folds]
    uses = [
        prior_uses({row: group_of[row] for row in fold}, earlier, contents)
        for fold, contents in zip(splits.folds, files, strict=True)
    ]
    mine = {entry.rows for entry in ledger if entry.key == key}
    resumed = [number for number, fold in enumerate(splits.folds) if tuple(sorted(fold)) in mine]
    chosen = resumed[0] if resumed else int(np.argmin(uses))
    fold = splits.folds[chosen]
    if not resumed:
        groups = tuple(sorted({group_of[row] for row in fold}))
        rows, contents = tuple(sorted(fold)), tuple(sorted(files[chosen]))
        entry = LedgerEntry(key=key, rows=rows, contents=contents, groups=groups, at=at)
        append_chain(workspace / LEDGER, [entry])
    return fold, uses[chosen]


def prior_uses(group_of: Mapping[str, str], entries: Sequence[LedgerEntry], contents: Collection[str] = ()) -> int:
    """How many certifications looked at any of some groups: a fold that grew overnight is not a new one.

    Args:
        group_of: group of each row.
        entries: the certifications; the same key again is one.
        contents: hashes of the files of the rows.
    """
    return len({entry.key for entry in touching(group_of, entries, contents)})


def touching(
    group_of: Mapping[str, str], entries: Sequence[LedgerEntry], contents: Collection[str] = ()
) -> list[LedgerEntry]:
    """The certifications that looked at any of some groups, by their names, the paths or the contents of their rows.

    Args:
        group_of: group of each row.
        entries: the certifications.
        contents: hashes of the files of the rows.
    """
    # Each may have got another name since.
    rows, groups, files = group_of.keys(), set(group_of.values()), set(contents)
    return [
        entry
        for entry in entries
        if not (groups.isdisjoint(entry.groups) and rows.isdisjoint(entry.rows) and files.isdisjoint(entry.contents))
    ]


def contents_of(splits: Splits, rows: Sequence[str]) -> set[str]:
    """Hashes of the files of some rows, where they are known."""
    known = splits.contents
    return {known[row] for row in rows if row in known}

"""The calibration ledger: which rows certifications have looked at, and which fold the next one takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter

from offline.data.jsonl import read_records
from offline.splits.splits_file import Splits
from stage1.artifacts import append_line

LEDGER = "calibration_ledger.jsonl"


class LedgerEntry(BaseModel):
    """One line of the calibration ledger: these rows have been looked at by a certification.

    Attributes:
        schema_version: version of this record.
        key: key of the calibration stage; the same key again is the same certification, resumed.
        rows: ids of the rows, sorted.
        groups: their groups, sorted.
        at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[2] = 2
    key: str
    rows: tuple[str, ...]
    groups: tuple[str, ...]
    at: str


_ENTRIES = TypeAdapter(LedgerEntry)


def read_certifications(workspace: Path) -> list[LedgerEntry]:
    """All certifications so far; a line that a crash cut short is ignored: its rows were not looked at.

    Raises:
        DatasetError: a line is not an entry of this version.
    """
    return read_records(workspace / LEDGER, _ENTRIES)


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
    uses = [prior_uses({row: group_of[row] for row in fold}, earlier) for fold in splits.folds]
    mine = {entry.rows for entry in ledger if entry.key == key}
    resumed = [number for number, fold in enumerate(splits.folds) if tuple(sorted(fold)) in mine]
    chosen = resumed[0] if resumed else int(np.argmin(uses))
    fold = splits.folds[chosen]
    if not resumed:
        groups = tuple(sorted({group_of[row] for row in fold}))
        append_line(workspace / LEDGER, LedgerEntry(key=key, rows=tuple(sorted(fold)), groups=groups, at=at))
    return fold, uses[chosen]


def prior_uses(group_of: Mapping[str, str], entries: Sequence[LedgerEntry]) -> int:
    """How many certifications looked at any of some groups: a fold that grew overnight is not a new one.

    Args:
        group_of: group of each row.
        entries: the certifications; the same key again is one.
    """
    groups = set(group_of.values())
    # By row too: a group may have got another name since.
    touched = {entry.key for entry in entries if groups & set(entry.groups) or group_of.keys() & set(entry.rows)}
    return len(touched)

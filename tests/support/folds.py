"""Splits that are no more than the folds of val_calib."""

from __future__ import annotations

from collections.abc import Sequence

from offline.splits.splits_file import SplitRow, Splits, SplitSet


def folded(
    *folds: Sequence[str], groups: dict[str, str] | None = None, contents: dict[str, str] | None = None
) -> Splits:
    """Splits whose val_calib is cut into these folds; a row without a group is its own."""
    named = groups or {}
    rows = tuple(
        SplitRow(row=row, group=named.get(row, f"drive {row}"), sha256=(contents or {}).get(row))
        for fold in folds
        for row in fold
    )
    calib = SplitSet(rows=rows, groups=len({row.group for row in rows}), positives=0)
    return Splits(seed=0, data_sha256="d", sets={"val_calib": calib}, folds=tuple(tuple(fold) for fold in folds))

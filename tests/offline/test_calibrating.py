"""The ledger of val_calib: which fold is used, and what is written down before a row is looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.calibrating import LEDGER, claim_fold, read_ledger
from offline.splits import Splits

AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def splits() -> Splits:
    return Splits(seed=0, data_sha256="d", sets={}, folds=(("a", "b"), ("c",), ("d", "e")))


def claim(workspace: Path, splits: Splits, key: str) -> tuple[tuple[str, ...], int]:
    return claim_fold(workspace, splits, key, AT)


def test_each_certification_takes_the_fold_that_was_used_least(tmp_path: Path, splits: Splits) -> None:
    assert [claim(tmp_path, splits, f"night {n}") for n in range(3)] == [(fold, 0) for fold in splits.folds]
    assert claim(tmp_path, splits, "night 3") == (splits.folds[0], 1)
    assert claim(tmp_path, splits, "night 4") == (splits.folds[1], 1)


def test_a_certification_that_was_killed_resumes_on_its_own_fold(tmp_path: Path, splits: Splits) -> None:
    first = claim(tmp_path, splits, "night 0")
    assert claim(tmp_path, splits, "night 0") == first
    assert len(read_ledger(tmp_path)) == 1


def test_a_single_fold_counts_its_uses(tmp_path: Path) -> None:
    splits = Splits(seed=0, data_sha256="d", sets={}, folds=(("a", "b"),))
    assert [claim(tmp_path, splits, f"night {n}")[1] for n in range(3)] == [0, 1, 2]


def test_the_order_of_rows_is_not_another_fold(tmp_path: Path) -> None:
    claim(tmp_path, Splits(seed=0, data_sha256="d", sets={}, folds=(("a", "b"),)), "night 0")
    reordered = Splits(seed=0, data_sha256="d", sets={}, folds=(("b", "a"),))
    assert claim(tmp_path, reordered, "night 1")[1] == 1


def test_a_line_that_a_crash_cut_short_is_not_a_use_and_does_not_spoil_the_next(tmp_path: Path, splits: Splits) -> None:
    claim(tmp_path, splits, "night 0")
    with (tmp_path / LEDGER).open("a") as handle:
        handle.write('{"key": "night 1", "rows_')
    assert len(read_ledger(tmp_path)) == 1
    claim(tmp_path, splits, "night 2")
    assert [entry.key for entry in read_ledger(tmp_path)] == ["night 0", "night 2"]

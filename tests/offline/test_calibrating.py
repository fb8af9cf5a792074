"""The ledger of val_calib: which fold is used, and what is written down before a row is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.engine import OnnxEngine
from offline.calibrating import LEDGER, claim_fold, golden_rows, read_ledger, run_engine
from offline.dataset import Dataset, Row
from offline.splits import Splits
from stage1.preprocess import PreprocessSettings

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


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """Thirty-seven plain pictures, nine of them with roadwork."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(37):
        Image.new("RGB", (40, 40), tuple(rng.integers(0, 256, 3).tolist())).save(tmp_path / f"{number}.png")
        rows.append(Row(image=f"{number}.png", label=int(number % 4 == 1), group=str(number // 2)))
    return Dataset(tmp_path, tuple(rows))


def test_an_engine_is_run_on_all_rows_in_order_through_the_serving_preprocess(
    pictures: Dataset, tiny_engine: Path
) -> None:
    engine, settings = OnnxEngine(tiny_engine, threads=1), PreprocessSettings(size_px=32)
    told: list[tuple[int, int, str]] = []
    labelled = run_engine(engine, pictures, settings, lambda *step: told.append(step), "val_calib")
    expected = engine.infer(pictures.array(settings))
    assert np.allclose(labelled.outputs.logits, expected.logits, atol=1e-5)
    assert np.allclose(labelled.outputs.select_score, expected.select_score, atol=1e-5)
    assert (labelled.row_ids, labelled.groups) == (pictures.ids, pictures.groups)
    assert labelled.labels.tolist() == pictures.labels.tolist()
    assert told == [(16, 37, "val_calib"), (32, 37, "val_calib"), (37, 37, "val_calib")]


def test_golden_rows_are_of_both_classes_and_the_same_in_any_order(pictures: Dataset) -> None:
    golden = golden_rows(pictures, seed=3)
    assert [row.label for row in golden.rows] == [0] * 8 + [1] * 8
    turned = Dataset(pictures.root, pictures.rows[::-1])
    assert golden_rows(turned, seed=3).ids == golden.ids
    assert golden_rows(pictures, seed=4).ids != golden.ids

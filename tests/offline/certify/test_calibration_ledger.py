"""The ledger of val_calib: which fold is used, and what is written down before a row is looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.backends.onnxruntime import OnnxEngine
from offline.certify.calibration_ledger import LEDGER, LedgerEntry, claim_fold, prior_uses, read_certifications
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import run_engine
from offline.data.named_targets import NO_TARGET
from offline.errors import DatasetError
from offline.splits.splits_file import Splits
from offline.stages.calibrate_scrc import calibrator_of, golden_rows
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.outputs import Stage1Outputs
from stage1.preprocess import PreprocessSettings
from tests.support.calibrators import head_probabilities
from tests.support.folds import folded

AT = "2026-01-01T00:00:00+00:00"


@pytest.fixture
def splits() -> Splits:
    return folded("ab", "c", "de")


def claim(workspace: Path, splits: Splits, key: str) -> tuple[tuple[str, ...], int]:
    return claim_fold(workspace, splits, key, AT)


def test_each_certification_takes_the_fold_that_was_used_least(tmp_path: Path, splits: Splits) -> None:
    assert [claim(tmp_path, splits, f"night {n}") for n in range(3)] == [(fold, 0) for fold in splits.folds]
    assert claim(tmp_path, splits, "night 3") == (splits.folds[0], 1)
    assert claim(tmp_path, splits, "night 4") == (splits.folds[1], 1)


def test_a_certification_that_was_killed_resumes_on_its_own_fold(tmp_path: Path, splits: Splits) -> None:
    first = claim(tmp_path, splits, "night 0")
    assert claim(tmp_path, splits, "night 0") == first
    assert len(read_certifications(tmp_path)) == 1
    claim(tmp_path, splits, "night 1")
    assert claim(tmp_path, splits, "night 0") == first


def test_a_single_fold_counts_its_uses(tmp_path: Path) -> None:
    assert [claim(tmp_path, folded("ab"), f"night {n}")[1] for n in range(3)] == [0, 1, 2]


def test_the_order_of_rows_is_not_another_fold(tmp_path: Path) -> None:
    claim(tmp_path, folded("ab"), "night 0")
    assert claim(tmp_path, folded("ba"), "night 1")[1] == 1
    assert claim(tmp_path, folded("ba"), "night 0") == (("b", "a"), 1)


def test_a_fold_that_grew_overnight_is_as_used_as_its_most_used_group(tmp_path: Path) -> None:
    claim(tmp_path, folded("ab"), "night 0")
    claim(tmp_path, folded("abc"), "night 1")
    assert claim(tmp_path, folded("abcd"), "night 2")[1] == 2
    # Only what nobody looked at is unused.
    assert claim(tmp_path, folded("efg"), "night 3")[1] == 0
    assert claim(tmp_path, folded("dx"), "night 4")[1] == 1


def test_a_grown_fold_is_passed_over_for_a_fresh_one(tmp_path: Path) -> None:
    claim(tmp_path, folded("ab", "c"), "night 0")
    assert claim(tmp_path, folded("abxyz", "cd"), "night 1") == (("c", "d"), 0)


def test_a_row_is_used_whatever_its_group_is_called_now(tmp_path: Path) -> None:
    claim(tmp_path, folded("ab", groups={"a": "drive 1", "b": "drive 1"}), "night 0")
    assert claim(tmp_path, folded("a", groups={"a": "renamed"}), "night 1")[1] == 1


def test_another_row_of_a_group_that_was_looked_at_is_used(tmp_path: Path) -> None:
    claim(tmp_path, folded("ab", groups={"a": "drive 1", "b": "drive 1"}), "night 0")
    assert claim(tmp_path, folded("z", groups={"z": "drive 1"}), "night 1")[1] == 1


def test_a_row_is_used_under_any_name_of_its_file_and_its_group(tmp_path: Path) -> None:
    claim(tmp_path, folded("ab", contents={"a": "1", "b": "2"}), "night 0")
    assert claim(tmp_path, folded("xy", contents={"x": "2", "y": "3"}), "night 1")[1] == 1
    assert claim(tmp_path, folded("z", contents={"z": "4"}), "night 2")[1] == 0


def test_a_ledger_from_which_a_use_was_taken_is_refused(tmp_path: Path) -> None:
    for night in range(3):
        claim(tmp_path, folded("ab"), f"night {night}")
    first, _, last = (tmp_path / LEDGER).read_text().splitlines()
    (tmp_path / LEDGER).write_text(f"{first}\n{last}\n")
    with pytest.raises(DatasetError, match=r"calibration_ledger\.jsonl, line 2: it does not follow .* new workspace"):
        claim(tmp_path, folded("ab"), "night 3")


def test_groups_that_were_joined_are_as_used_as_all_of_them(tmp_path: Path) -> None:
    claim(tmp_path, folded("a"), "night 0")
    claim(tmp_path, folded("b"), "night 1")
    assert claim(tmp_path, folded("ab", groups={"a": "one", "b": "one"}), "night 2")[1] == 2


def test_what_is_written_down_names_the_rows_and_the_groups(tmp_path: Path, splits: Splits) -> None:
    claim(tmp_path, splits, "night 0")
    assert read_certifications(tmp_path) == [
        LedgerEntry(key="night 0", rows=("a", "b"), groups=("drive a", "drive b"), at=AT),
    ]


def test_a_line_that_a_crash_cut_short_is_not_a_use_and_does_not_spoil_the_next(tmp_path: Path, splits: Splits) -> None:
    claim(tmp_path, splits, "night 0")
    with (tmp_path / LEDGER).open("a") as handle:
        handle.write('{"key": "night 1", "rows')
    assert len(read_certifications(tmp_path)) == 1
    claim(tmp_path, splits, "night 2")
    assert [entry.key for entry in read_certifications(tmp_path)] == ["night 0", "night 2"]


def test_an_entry_of_the_version_before_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text('{"schema_version": 1, "key": "night 0", "rows_sha256": "d", "at": ""}\n')
    with pytest.raises(DatasetError, match=r"calibration_ledger\.jsonl, line 1: schema_version"):
        read_certifications(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Dataset:
    """Thirty-seven plain pictures, nine of them with roadwork."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(37):
        about = {"daytime": "night"} if number < 5 else {}
        Image.new("RGB", (40, 40), tuple(rng.integers(0, 256, 3).tolist())).save(tmp_path / f"{number}.png")
        rows.append(Row(image=f"{number}.png", label=int(number % 4 == 1), group=str(number // 2), metadata=about))
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
    assert labelled.column("daytime").tolist() == ["night"] * 5 + ["unknown"] * 32
    assert told == [(16, 37, "val_calib"), (32, 37, "val_calib"), (37, 37, "val_calib")]


def test_golden_rows_are_of_both_classes_and_the_same_in_any_order(pictures: Dataset) -> None:
    golden = golden_rows(pictures, seed=3, most=16)
    assert [row.label for row in golden.rows] == [0] * 8 + [1] * 8
    turned = Dataset(pictures.root, pictures.rows[::-1])
    assert golden_rows(turned, seed=3, most=16).ids == golden.ids
    assert golden_rows(pictures, seed=4, most=16).ids != golden.ids


def test_a_use_of_any_of_the_groups_counts() -> None:
    """One certification on a, two on b: a fold of both has been looked at by three."""
    entries = [
        LedgerEntry(key=key, rows=(f"{group}.jpg",), groups=(group,), at=AT)
        for key, group in (("1", "a"), ("2", "b"), ("3", "b"), ("3", "b"))
    ]
    assert prior_uses({"a.jpg": "a", "b.jpg": "b"}, entries) == 3
    assert prior_uses({"a.jpg": "renamed"}, entries) == 1
    assert prior_uses({"c.jpg": "c"}, entries) == 0


def with_head(count: int = 60) -> LabelledOutputs:
    rng = np.random.default_rng(0)
    labels = (np.arange(count) % 2).astype(np.int8)
    logits = rng.normal(size=(count, 2)).astype(np.float32)
    logits[:, 1] += labels
    kinds = rng.normal(size=(count, 3)).astype(np.float32)
    outputs = Stage1Outputs(logits, np.ones(count, np.float32), {"kind": kinds})
    ids = [str(n) for n in range(count)]
    return LabelledOutputs(outputs, labels, ids, ids)


def test_a_head_that_only_roadwork_has_values_for_is_calibrated_on_those() -> None:
    rows = with_head()
    targets = np.where(rows.labels == 1, np.arange(60) // 2 % 3, NO_TARGET)
    fitted = calibrator_of(rows, {"kind": targets})
    assert fitted.heads.keys() == {"class", "kind"}
    assert head_probabilities(fitted, "kind", rows.outputs.heads["kind"]).shape == (60, 3)


@pytest.mark.parametrize("known", [0, 5])
def test_a_head_whose_classes_are_not_all_there_has_no_calibrator(known: int) -> None:
    targets = np.full(60, NO_TARGET)
    targets[:known] = 1
    assert calibrator_of(with_head(), {"kind": targets}).heads.keys() == {"class"}

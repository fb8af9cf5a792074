"""The ledger of val_calib: what is written down before a row is looked at."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.backends.onnxruntime import OnnxEngine
from offline.certify.calibration_ledger import (
    LEDGER,
    earlier_than,
    looks_of,
    one_look_at_a_time,
    read_certifications,
    record_look,
)
from offline.certify.compact_look import LedgerEntry
from offline.data.dataset import Dataset, Row
from offline.data.engine_outputs import read_outputs, run_engine, write_outputs
from offline.data.named_targets import NO_TARGET
from offline.errors import DatasetError, PipelineBusy
from offline.stages.calibrate_scrc import calibrator_of, golden_rows
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.outputs import Stage1Outputs
from stage1.preprocess import PreprocessSettings
from tests.support.calibrators import head_probabilities

AT = "2026-01-01T00:00:00+00:00"


def entry(key: str, *rows: str) -> LedgerEntry:
    return LedgerEntry(key=key, rows=rows, groups=tuple(f"drive {row}" for row in rows), level=0.02, at=AT)


def test_what_is_written_down_is_read_in_order(tmp_path: Path) -> None:
    entries = [entry("night 0", "a", "b"), entry("night 1", "c")]
    for one in entries:
        record_look(tmp_path, one)
    assert read_certifications(tmp_path) == entries


def test_a_certification_that_is_resumed_knows_what_came_before_it_and_its_own_entry() -> None:
    entries = [entry("night 0", "a"), entry("night 1", "a"), entry("night 2", "a")]
    assert earlier_than(entries, "night 1") == (entries[:1], entries[1])
    assert earlier_than(entries, "night 3") == (entries, None)


def test_two_workspaces_of_one_store_never_take_a_look_for_the_first_one_both(tmp_path: Path) -> None:
    store, seen = tmp_path / "store", list[int]()

    def certify(number: int) -> None:
        with one_look_at_a_time(store):
            earlier = len(looks_of(store))
            # Long enough for the other one to count as well.
            time.sleep(0.05)
            workspace = tmp_path / f"workspace{number}"
            workspace.mkdir()
            record_look(workspace, entry(f"key{number}", "a"), store)
            seen.append(earlier)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(certify, range(4)))
    assert seen == [0, 1, 2, 3]


def test_a_look_that_another_run_holds_up_is_tried_again_later(tmp_path: Path) -> None:
    with (
        one_look_at_a_time(tmp_path),
        pytest.raises(PipelineBusy, match="another run is about to look at val_calib") as busy,
        one_look_at_a_time(tmp_path, wait_s=0.0),
    ):
        pass
    assert busy.value.exit_status == 75


def test_a_line_that_a_crash_cut_short_is_not_a_use_and_does_not_spoil_the_next(tmp_path: Path) -> None:
    record_look(tmp_path, entry("night 0", "a"))
    with (tmp_path / LEDGER).open("a") as handle:
        handle.write('{"key": "night 1", "rows')
    assert len(read_certifications(tmp_path)) == 1
    record_look(tmp_path, entry("night 2", "a"))
    assert [entry.key for entry in read_certifications(tmp_path)] == ["night 0", "night 2"]


def test_a_ledger_from_which_a_look_was_taken_is_refused(tmp_path: Path) -> None:
    for night in range(3):
        record_look(tmp_path, entry(f"night {night}", "a"))
    first, _, last = (tmp_path / LEDGER).read_text().splitlines()
    (tmp_path / LEDGER).write_text(f"{first}\n{last}\n")
    with pytest.raises(DatasetError, match=r"calibration_ledger\.jsonl, line 2: it does not follow .* new workspace"):
        read_certifications(tmp_path)


def test_an_entry_of_the_version_before_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text('{"schema_version": 1, "key": "night 0", "rows_sha256": "d", "at": ""}\n')
    with pytest.raises(DatasetError, match=r"calibration_ledger\.jsonl, line 1: .*schema_version"):
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
    write_outputs(pictures.root / "kept.npz", labelled.outputs)
    kept = read_outputs(pictures.root / "kept.npz")
    assert np.array_equal(kept.logits, labelled.outputs.logits)
    assert np.array_equal(kept.select_score, labelled.outputs.select_score)
    assert told == [(16, 37, "val_calib"), (32, 37, "val_calib"), (37, 37, "val_calib")]


def test_golden_rows_are_of_both_classes_and_the_same_in_any_order(pictures: Dataset) -> None:
    golden = golden_rows(pictures, seed=3, most=16)
    assert [row.label for row in golden.rows] == [0] * 8 + [1] * 8
    turned = Dataset(pictures.root, pictures.rows[::-1])
    assert golden_rows(turned, seed=3, most=16).ids == golden.ids
    assert golden_rows(pictures, seed=4, most=16).ids != golden.ids


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

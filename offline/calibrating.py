"""Calibration of the compiled engine: whose numbers are certified are the numbers that will serve."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from engines.engine import Engine
from offline.dataset import Dataset
from offline.splits import Splits, hash_key
from stage1.artifacts import append_line, sha256_json
from stage1.calibration import LabelledOutputs
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, PreprocessSettings

LEDGER = "calibration_ledger.jsonl"
BATCH = 16
GOLDEN_IMAGES = 16
DISTRIBUTION = "streetvision-cascade"


class LedgerEntry(BaseModel):
    """One line of the calibration ledger: these rows have been looked at by a certification.

    Attributes:
        schema_version: version of this record.
        key: key of the calibration stage; the same key again is the same certification, resumed.
        rows_sha256: hash of the sorted row ids.
        at: UTC, ISO 8601.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    key: str
    rows_sha256: str
    at: str


def run_engine(
    engine: Engine, data: Dataset, settings: PreprocessSettings, progress: Callable[[int, int, str], None], note: str
) -> LabelledOutputs:
    """Outputs of an engine for labelled rows, through the serving preprocess."""
    parts: list[Stage1Outputs] = []
    batch: list[Pixels] = []
    for done, pixels in enumerate(data.pixels(settings), start=1):
        batch.append(pixels)
        if len(batch) == BATCH or done == len(data):
            parts.append(engine.infer(np.stack(batch)))
            batch = []
            progress(done, len(data), note)
    return LabelledOutputs(Stage1Outputs.concatenate(parts), data.labels, data.ids, data.groups)


def read_ledger(workspace: Path) -> list[LedgerEntry]:
    """All certifications so far; a line that a crash cut short is ignored: its rows were not looked at."""
    path = workspace / LEDGER
    if not path.exists():
        return []
    return [LedgerEntry.model_validate_json(line) for line in path.read_text().splitlines() if _whole(line)]


def _whole(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def claim_fold(workspace: Path, splits: Splits, key: str, at: str) -> tuple[tuple[str, ...], int]:
    """Take the fold of val_calib that has been used least, and write the use down before any row is looked at.

    Args:
        workspace: where the ledger is.
        splits: names the folds.
        key: key of the calibration stage.
        at: time to record.

    Returns:
        Row ids of the fold, and how many other certifications used exactly these rows before.
    """
    ledger = read_ledger(workspace)
    hashes = [sha256_json(sorted(fold)) for fold in splits.folds]
    uses = [sum(entry.rows_sha256 == digest and entry.key != key for entry in ledger) for digest in hashes]
    resumed = [i for i, digest in enumerate(hashes) if any(e.key == key and e.rows_sha256 == digest for e in ledger)]
    chosen = resumed[0] if resumed else int(np.argmin(uses))
    if not resumed:
        append_line(workspace / LEDGER, LedgerEntry(key=key, rows_sha256=hashes[chosen], at=at))
    return splits.folds[chosen], uses[chosen]


def golden_rows(data: Dataset, seed: int) -> Dataset:
    """A few rows of each class, picked by hash, for the golden set."""
    ordered = sorted(data.rows, key=lambda row: hash_key(seed, row.image))
    half = GOLDEN_IMAGES // 2
    picked = [row for label in (0, 1) for row in [r for r in ordered if r.label == label][:half]]
    return Dataset(data.root, tuple(picked))


def code_version() -> str:
    """Version of this program."""
    return version(DISTRIBUTION)

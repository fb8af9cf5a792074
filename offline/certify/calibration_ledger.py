"""Calibration of the compiled engine: whose numbers are certified are the numbers that will serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, TypeAdapter

from engines.engine import Engine
from offline.data.dataset import Dataset
from offline.data.jsonl import read_records
from offline.data.named_targets import NO_TARGET
from offline.splits.balanced_placement import hash_key
from offline.splits.splits_file import Splits
from stage1.artifacts import append_line
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, PreprocessSettings
from stage1.probability.calibrator import ProbabilityCalibrator, fit_calibrator, fit_head

LEDGER = "calibration_ledger.jsonl"
BATCH = 16
GOLDEN_IMAGES = 64
DISTRIBUTION = "streetvision-cascade"


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
    return LabelledOutputs(Stage1Outputs.concatenate(parts), data.labels, data.ids, data.groups, data.metadata)


def read_ledger(workspace: Path) -> list[LedgerEntry]:
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
    ledger = read_ledger(workspace)
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


def calibrator_of(
    rows: LabelledOutputs, targets: Mapping[str, NDArray[np.int64]] | None = None
) -> ProbabilityCalibrator:
    """Calibrators fitted on rows of val_calib; the probability as it is where they show one class only.

    The exit decision never reads a probability, so this does not touch what is certified on the same rows.

    Args:
        rows: of val_calib.
        targets: class of each row for each named head, `(N,)`, `NO_TARGET` where there is none. A head whose rows do
            not show all of its classes has no calibrator.
    """
    if not 0 < rows.labels.sum() < len(rows):
        return ProbabilityCalibrator()
    heads = dict(fit_calibrator(rows.outputs, rows.labels).heads)
    for name, classes in (targets or {}).items():
        known = classes != NO_TARGET
        if len(np.unique(classes[known])) == rows.outputs.heads[name].shape[1]:
            heads[name] = fit_head(name, rows.outputs.heads[name][known], classes[known])
    return ProbabilityCalibrator(heads=heads)


def golden_rows(data: Dataset, seed: int, most: int = GOLDEN_IMAGES) -> Dataset:
    """A few rows of each class, picked by hash, for the golden set.

    Args:
        data: where to pick.
        seed: of the hash.
        most: rows of both classes together.
    """
    ordered = sorted(data.rows, key=lambda row: hash_key(seed, row.image))
    half = most // 2
    picked = [row for label in (0, 1) for row in [r for r in ordered if r.label == label][:half]]
    return Dataset(data.root, tuple(picked))


def code_version() -> str:
    """Version of this program."""
    return version(DISTRIBUTION)

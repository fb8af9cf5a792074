"""Outputs of an engine for labelled rows, through the serving preprocess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from engines.engine import HEAD_PREFIX, Engine
from offline.data.dataset import Dataset
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, PreprocessSettings

BATCH = 16


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
    return labelled(data, Stage1Outputs.concatenate(parts))


def labelled(data: Dataset, outputs: Stage1Outputs) -> LabelledOutputs:
    """Outputs with what is known of their rows, in the same order."""
    return LabelledOutputs(outputs, data.labels, data.ids, data.groups, data.metadata)


def unseen(data: Dataset) -> LabelledOutputs:
    """Rows whose images no engine has looked at: what is known of them, and zeros for outputs."""
    zeros = np.zeros((len(data), 2), np.float32)
    return labelled(data, Stage1Outputs(zeros, zeros[:, 0]))


def write_outputs(path: Path, outputs: Stage1Outputs) -> None:
    """Store outputs as they are, without compression; an `.npz` file."""
    arrays: dict[str, Any] = {"logits": outputs.logits, "select_score": outputs.select_score}
    arrays |= {HEAD_PREFIX + name: logits for name, logits in outputs.heads.items()}
    with path.open("wb") as handle:
        np.savez(handle, **arrays)


def read_outputs(path: Path) -> Stage1Outputs:
    """What `write_outputs` stored."""
    with np.load(path, allow_pickle=False) as stored:
        heads = {name.removeprefix(HEAD_PREFIX): stored[name] for name in stored if name.startswith(HEAD_PREFIX)}
        return Stage1Outputs(stored["logits"], stored["select_score"], heads)

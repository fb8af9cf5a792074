"""Outputs of an engine for labelled rows, through the serving preprocess."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from engines.engine import Engine
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
    return LabelledOutputs(Stage1Outputs.concatenate(parts), data.labels, data.ids, data.groups, data.metadata)

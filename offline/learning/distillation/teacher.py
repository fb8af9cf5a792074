"""Bundles or runs that teach, whose mean is asked; a table of verdicts is another teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from engines.backends.onnxruntime import OnnxEngine
from engines.store.file_names import ENGINE, PREPROCESS
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.errors import TrainingError
from offline.learning.distillation.verdicts import COLUMNS
from stage1.preprocess import PreprocessSettings


def models_of(directory: Path) -> list[Path]:
    """The models of a teacher: the directory itself if it is a bundle or a run, or those in it, sorted.

    Raises:
        TrainingError: there is none.
    """
    found = [one for one in (directory, *sorted(directory.iterdir())) if (one / ENGINE).is_file()]
    if not found:
        raise TrainingError(
            f"{directory}: no teacher: learn.teacher names a bundle, a run, a directory of such, or a table of "
            f"verdicts with the columns {' and '.join(COLUMNS)}"
        )
    return found[:1] if found[0] == directory else found


def answers_of(models: Sequence[Path], rows: Dataset, progress: Callable[[int, int, str], None]) -> NDArray[np.float64]:
    """Mean probability of roadwork of several models, float64 `(N,)`; each sees a picture in its own way.

    Args:
        models: their directories.
        rows: with their sender.
        progress: called with rows done, rows in all, and a note.

    Raises:
        stage1.errors.ArtifactError: a model does not say how it sees pictures.
        EngineError: its graph cannot be run.
    """
    found = []
    for number, model in enumerate(models, start=1):
        settings, note = PreprocessSettings.read(model / PREPROCESS), f"teacher {number} of {len(models)}"
        with closing(OnnxEngine(model / ENGINE)) as engine:
            said = run_engine(engine, rows, settings, progress, note)
        found.append(expit(said.outputs.roadwork_score.astype(np.float64)))
    mean: NDArray[np.float64] = np.mean(found, axis=0)
    return mean

"""Who teaches: bundles or runs, whose mean is asked, or a table of verdicts on pictures without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from engines.backends.onnxruntime import OnnxEngine
from engines.store.file_names import ENGINE, PREPROCESS
from offline.data.dataset import Dataset
from offline.data.engine_outputs import run_engine
from offline.data.sources.csv_table import read_table
from offline.errors import DatasetError, TrainingError
from stage1.preprocess import PreprocessSettings

COLUMNS = ("image", "probability")


@dataclass(frozen=True)
class Verdict:
    """What a table says of a picture.

    Attributes:
        path: of the picture.
        probability: of roadwork.
    """

    path: Path
    probability: float


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


def verdicts_of(path: Path) -> list[Verdict]:
    """The verdicts of a table, with the columns `image` and `probability`; paths are relative to the table.

    Raises:
        DatasetError: the table cannot be read, a picture is not there or is listed twice, or a probability is none.
    """
    table = read_table(path, COLUMNS)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DatasetError(f"{path}: no column {missing[0]!r}; verdicts have the columns {' and '.join(COLUMNS)}")
    found: dict[Path, Verdict] = {}
    for record in table.records:
        where, picture = f"{path}, line {record.line}", path.parent / record.cells["image"]
        if not picture.is_file():
            raise DatasetError(f"{where}: {picture} is not there")
        if picture in found:
            raise DatasetError(f"{where}: {picture} is listed twice")
        found[picture] = Verdict(picture, _probability(record.cells["probability"], where))
    return list(found.values())


def _probability(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = np.nan
    if not 0 <= value <= 1:
        raise DatasetError(f"{where}: probability is {cell!r}, expected a number from 0 to 1")
    return value

"""What a Stage-2 server answers to labelled rows, from the scores that a store keeps of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from engines.machine.cores import on_all_cores
from engines.store.stage2_scores import ServerScores
from offline.data.dataset import Dataset
from stage1.preprocess import PreprocessSettings
from stage1.probability.server_score import ScoreCalibrator, calibrated_scores, chosen_score

# Fewer rows than these fit a line through noise; with fewer of a class there is nothing to fit.
LEAST_FITTED, LEAST_OF_A_CLASS = 40, 5
HASHED_TOGETHER = 64


def sent_hashes(
    data: Dataset, settings: PreprocessSettings, progress: Callable[[int, int, str], None], note: str
) -> list[str]:
    """SHA-256 of what arrives for each row, in order; of its very file, also where a night looks at smaller copies.

    Args:
        data: the rows, and who sends them.
        settings: limits of what is decoded.
        progress: called with rows done, rows in all, and a note.
        note: the note.

    Raises:
        DatasetError: a picture cannot be read.
    """
    sent = replace(data, kept=None)
    found: list[str] = []
    for start in range(0, len(data), HASHED_TOGETHER):
        rows = data.ids[start : start + HASHED_TOGETHER]
        found += on_all_cores(lambda row: hashlib.sha256(sent.content(row, settings)).hexdigest(), rows)
        progress(len(found), len(data), note)
    return found


@dataclass(frozen=True, eq=False)
class RowScores:
    """What a server said of N rows.

    Attributes:
        asked: it was asked about the row, `(N,)`.
        score: before any calibrator, in [0, 1], `(N,)`; NaN where it was not asked or could not answer.
        ms: how long it took, `(N,)`; 0 where it was not asked.
        cost: of the call, `(N,)`; NaN where nobody named a price.
    """

    asked: NDArray[np.bool_]
    score: NDArray[np.float64]
    ms: NDArray[np.float64]
    cost: NDArray[np.float64]

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Bool `(N,)`: there is a score."""
        found: NDArray[np.bool_] = ~np.isnan(self.score)
        return found

    def pick(self, index: NDArray[np.bool_]) -> RowScores:
        """Some of the rows."""
        return RowScores(self.asked[index], self.score[index], self.ms[index], self.cost[index])

    def calibrated(self, calibrator: ScoreCalibrator | None) -> NDArray[np.float64]:
        """Probabilities of roadwork, `(N,)`; NaN where there is no score, and the scores themselves without one."""
        if calibrator is None:
            return self.score
        known = self.answered
        found = np.full(len(self.score), np.nan)
        found[known] = calibrated_scores(calibrator, self.score[known])
        return found


def row_scores(images: Sequence[str], kept: ServerScores) -> RowScores:
    """What a server said of rows.

    Args:
        images: hash of what arrives for each, see `sent_hashes`.
        kept: everything that it said.
    """
    found = [kept.scores.get(image) for image in images]

    def column(values: Sequence[float | None]) -> NDArray[np.float64]:
        return np.array([np.nan if value is None else value for value in values], np.float64)

    return RowScores(
        asked=np.array([one is not None for one in found], bool),
        score=column([None if one is None else one.score for one in found]),
        ms=column([0.0 if one is None else one.ms for one in found]),
        cost=column([None if one is None else one.cost for one in found]),
    )


def fitted(select: RowScores, labels: NDArray[np.integer], groups: NDArray[np.str_]) -> ScoreCalibrator | None:
    """The calibrator of a server, from rows of val_select; None where they are too few of a class to fit one.

    Args:
        select: what it said of them.
        labels: 0 or 1, `(N,)`.
        groups: group of each row, `(N,)`.

    Raises:
        CalibrationError: the search for the best fit did not end.
    """
    known = select.answered
    of_each = np.bincount(labels[known].astype(np.intp), minlength=2)
    if known.sum() < LEAST_FITTED or of_each.min() < LEAST_OF_A_CLASS:
        return None
    return chosen_score(select.score[known], labels[known], groups[known].tolist())

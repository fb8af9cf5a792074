"""How good answers are: right or wrong, how well they rank, and whether their probabilities are true."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.metrics.bootstrap import Groups, Statistic, rate
from stage1.metrics.classification import roc_auc, weighted_mcc
from stage1.metrics.estimate import Estimate, estimates
from stage1.metrics.reward import rounded
from stage1.probability.quality import CalibrationQuality, judge


class AnswerQuality(BaseModel):
    """How good answers are; the intervals are of a bootstrap of groups.

    Attributes:
        rows: rows that were answered.
        positives: those of them with roadwork.
        groups: groups among them.
        accuracy: share of right answers.
        mcc: Matthews correlation.
        auroc: the chance that an image with roadwork has the larger probability, half for a tie.
        misses: share of the roadwork that is answered 0.
        false_alarms: share of the rest that is answered 1.
        calibration: whether the probabilities are true.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    positives: int
    groups: int
    accuracy: Estimate
    mcc: Estimate
    auroc: Estimate
    misses: Estimate
    false_alarms: Estimate
    calibration: CalibrationQuality


def judge_answers(
    probability: NDArray[np.float64],
    labels: NDArray[np.integer],
    groups: Groups,
    *,
    repetitions: int = 1000,
    seed: int = 0,
) -> AnswerQuality:
    """Compare answers with labels; an answer is rounded as validators do it, half to 0.

    Args:
        probability: of roadwork, as it is answered, `(N,)`.
        labels: 0 or 1, `(N,)`.
        groups: group of each row, `(N,)`.
        repetitions: replicates of the group bootstrap; 0 for no intervals.
        seed: of its draws.

    Raises:
        ValueError: there are no rows, or a probability is not in [0, 1].
    """
    quality = judge(probability, labels)
    found = estimates(answer_statistics(probability, labels), groups, repetitions, np.random.default_rng(seed))
    return AnswerQuality(
        rows=len(labels), positives=int(labels.sum()), groups=len(set(groups)), calibration=quality, **found
    )


def answer_statistics(probability: NDArray[np.float64], labels: NDArray[np.integer]) -> dict[str, Statistic]:
    """Accuracy, Matthews correlation, AUROC, misses and false alarms of answers, as statistics of weighted rows."""
    answers, truth = rounded(probability), np.asarray(labels).astype(np.int8)
    right, roadwork, everything = answers == truth, truth == 1, np.ones(len(truth), bool)
    return {
        "accuracy": rate(everything, right),
        "mcc": lambda weights: weighted_mcc(truth, answers, weights),
        "auroc": roc_auc(probability, truth),
        "misses": rate(roadwork, ~right),
        "false_alarms": rate(~roadwork, ~right),
    }

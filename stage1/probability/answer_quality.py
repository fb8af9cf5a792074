"""How good answers are: right or wrong, how well they rank, and whether their probabilities are true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.metrics.bootstrap import Groups, Statistic, rate
from stage1.metrics.classification import roc_auc, weighted_mcc
from stage1.metrics.estimate import Estimate, estimates
from stage1.metrics.reward import rounded
from stage1.probability.quality import CalibrationQuality, judge

# Of a part that is judged by itself, and of a column that tells parts apart.
LEAST_ROWS, MOST_VALUES = 10, 24


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


class SubgroupQuality(BaseModel):
    """How good answers are in a part of the rows.

    Attributes:
        column: what tells the parts apart.
        value: the part.
        rows: its rows.
        positives: those with roadwork.
        accuracy: share of right answers.
        mcc: Matthews correlation; 0 where the rows or the answers are of one class.
        auroc: see `AnswerQuality.auroc`; None where the rows are of one class.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    column: str
    value: str
    rows: int
    positives: int
    accuracy: float
    mcc: float
    auroc: float | None


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


def judge_subgroups(
    probability: NDArray[np.float64],
    labels: NDArray[np.integer],
    columns: Mapping[str, Sequence[str]],
) -> tuple[SubgroupQuality, ...]:
    """Answers in every part of the rows that is not too small, for every column that has a few values, more than one.

    Args:
        probability: of roadwork, as it is answered, `(N,)`.
        labels: 0 or 1, `(N,)`.
        columns: what is known of each row, N values each; an empty value is no part.
    """
    found = []
    for column, values in columns.items():
        known = np.asarray(values)
        parts, counts = np.unique(known, return_counts=True)
        if not 1 < len(parts) <= MOST_VALUES:
            continue
        for part, count in zip(parts.tolist(), counts.tolist(), strict=True):
            if part and count >= LEAST_ROWS:
                found.append(_subgroup(column, part, probability, labels, known == part))
    return tuple(found)


def _subgroup(
    column: str,
    part: str,
    probability: NDArray[np.float64],
    labels: NDArray[np.integer],
    inside: NDArray[np.bool_],
) -> SubgroupQuality:
    statistics = answer_statistics(probability[inside], labels[inside])
    ones = np.ones(int(inside.sum()))
    numbers = {name: float(np.asarray(statistics[name](ones))) for name in ("accuracy", "mcc", "auroc")}
    return SubgroupQuality(
        column=column,
        value=part,
        rows=len(ones),
        positives=int(labels[inside].sum()),
        accuracy=numbers["accuracy"],
        mcc=numbers["mcc"],
        auroc=None if np.isnan(numbers["auroc"]) else numbers["auroc"],
    )

"""The usual rule: exit when the softmax is sure enough."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field
from scipy.special import expit

from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.risks import Rate, Risk, measure
from stage1.certificate.search.candidates import exit_one_threshold
from stage1.decisions import Decisions
from stage1.outputs import Floats, Stage1Outputs


def roadwork_probability(outputs: Stage1Outputs) -> Floats:
    """Softmax probability of roadwork, float32 `(N,)`."""
    probability: Floats = expit(outputs.roadwork_score)
    return probability


@dataclass(frozen=True)
class ThresholdPolicy:
    """The baseline: exit when the softmax probability is extreme. Never certified.

    Attributes:
        low: exit with label 0 below this probability of roadwork.
        high: exit with label 1 above this probability of roadwork.
    """

    low: float = 0.12
    high: float = 0.88

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        """See `Policy.decide`."""
        probability = roadwork_probability(outputs)
        as_zero, as_one = probability < self.low, probability > self.high
        labels = (as_zero | as_one).view(np.int8) - np.int8(1) + (as_one > as_zero)
        return Decisions.from_exit_labels(labels, np.zeros(len(outputs), bool))


class Thresholds(Artifact):
    """`thresholds.json`: softmax thresholds chosen so that the miss rate observed on val_select is low enough.

    Attributes:
        low: exit with label 0 below this probability of roadwork.
        high: exit with label 1 above this probability of roadwork.
        certified: never.
        alpha: the miss rate on exits that was asked for.
        miss_rate: the one observed on the rows that chose; no bound on what it is elsewhere.
        rows_sha256: hash of the ids of these rows.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    certified: Literal[False] = False
    alpha: float
    miss_rate: Rate
    rows_sha256: str

    @property
    def policy(self) -> ThresholdPolicy:
        """The policy with these thresholds."""
        return ThresholdPolicy(self.low, self.high)


def swept_thresholds(data: LabelledOutputs, *, alpha: float, false_alarm_rate: float) -> Thresholds:
    """Softmax thresholds that let as much exit as the miss rate and the false alarms observed on these rows allow.

    Args:
        data: rows of val_select.
        alpha: miss rate on exits that may be observed.
        false_alarm_rate: share of the negatives that may exit as 1.
    """
    probability, positive = roadwork_probability(data.outputs), data.positive
    allowed = math.floor(false_alarm_rate * int(np.sum(~positive)))
    t1 = max(exit_one_threshold(probability[~positive], allowed), float(probability.min()))
    cuts = np.append(np.unique(probability[probability < t1]), np.float32(t1))
    missed = np.searchsorted(np.sort(probability[positive]), cuts, side="left")
    safe = np.flatnonzero(missed <= alpha * (missed + np.sum(positive & (probability >= t1))))
    # Exits lie strictly beyond the thresholds.
    low = min(float(cuts[safe[-1]]), 1.0) if len(safe) else 0.0
    high = min(float(np.nextafter(np.float32(t1), np.float32(0))), 1.0)
    decisions = ThresholdPolicy(low, high).decide(data.outputs)
    units = data.units("row", 0)
    miss_rate = measure(data.labels, decisions, np.ones(len(data), bool), units, delta=0.5)[Risk.MISS_EXIT]
    return Thresholds(low=low, high=high, alpha=alpha, miss_rate=miss_rate, rows_sha256=data.rows_sha256)

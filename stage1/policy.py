"""Policies: pure functions from Stage-1 outputs to decisions.

`ScrcPolicy` is the product; `ThresholdPolicy` is the uncertified baseline that every report shows beside it. Both
decide one row or a million with the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stage1.certificate import ScrcParams
from stage1.decisions import DEFERRED, Decisions, Labels
from stage1.outputs import Floats, Stage1Outputs


class Policy(Protocol):
    """Decides which images exit."""

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        """Decisions for all rows of `outputs`, in order."""
        ...


def apply_exit_rule(score: Floats, select_score: Floats, *, tau: float, t0: float, t1: float) -> Labels:
    """The exit rule with two label-specific thresholds behind a gate.

    Args:
        score: roadwork scores, `(N,)`.
        select_score: selection scores, `(N,)`.
        tau: an image may exit only if its selection score is at least tau.
        t0: exit with label 0 strictly below t0.
        t1: exit with label 1 at or above t1, unless it already exits with 0.

    Returns:
        int8 `(N,)`: 0, 1, or -1 for deferred.
    """
    gate = select_score >= tau
    labels = np.full(score.shape, DEFERRED, np.int8)
    labels[gate & (score >= t1)] = 1
    labels[gate & (score < t0)] = 0
    return labels


@dataclass(frozen=True)
class ScrcPolicy:
    """Exits by certified thresholds; defers everything if nothing was certified."""

    params: ScrcParams

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        """See `Policy.decide`."""
        rule = self.params.rule
        ambiguous = outputs.select_score < self.params.ambiguous_below
        if rule is None:
            return Decisions.from_exit_labels(np.full(len(outputs), DEFERRED, np.int8), ambiguous)
        labels = apply_exit_rule(outputs.roadwork_score, outputs.select_score, tau=rule.tau, t0=rule.t0, t1=rule.t1)
        return Decisions.from_exit_labels(labels, ambiguous)

    def gate(self, outputs: Stage1Outputs) -> NDArray[np.bool_]:
        """Bool `(N,)`: the selection score passes the gate."""
        tau = np.inf if self.params.rule is None else self.params.rule.tau
        passes: NDArray[np.bool_] = outputs.select_score >= tau
        return passes


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
        probability = expit(outputs.roadwork_score)
        labels = np.full(len(outputs), DEFERRED, np.int8)
        labels[probability > self.high] = 1
        labels[probability < self.low] = 0
        return Decisions.from_exit_labels(labels, np.zeros(len(outputs), bool))

"""Policies: pure functions from Stage-1 outputs to decisions.

`ScrcPolicy` is the product; `ThresholdPolicy` is the uncertified baseline that every report shows beside it. Both
decide one row or a million with the same code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stage1.certificate.caution import NO_CAUTION, Caution
from stage1.certificate.params import ScrcParams
from stage1.decisions import DEFERRED, Decisions
from stage1.exit_rule import ExitRule
from stage1.outputs import Stage1Outputs


class Policy(Protocol):
    """Decides which images exit."""

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        """Decisions for all rows of `outputs`, in order."""
        ...


@dataclass(frozen=True)
class ScrcPolicy:
    """Exits by certified thresholds, or more cautiously; defers everything if nothing was certified.

    Attributes:
        params: the certificate.
        caution: what is not done although it is certified.
    """

    params: ScrcParams
    caution: Caution = NO_CAUTION

    @cached_property
    def rule(self) -> ExitRule | None:
        """The rule that decides; None defers everything."""
        return self.caution.applied(self.params.rule)

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        """See `Policy.decide`."""
        ambiguous = outputs.confidence(self.params.gate_score) < self.params.ambiguous_below
        return Decisions.from_exit_labels(exit_labels(self.rule, outputs), ambiguous)

    def settled(self, outputs: Stage1Outputs, tolerance: float) -> NDArray[np.bool_]:
        """Bool `(N,)`: see `ExitRule.settled`; what is always deferred is settled."""
        rule = self.rule
        return np.ones(len(outputs), bool) if rule is None else rule.settled(outputs, tolerance)

    def gate(self, outputs: Stage1Outputs) -> NDArray[np.bool_]:
        """Bool `(N,)`: the image passes the gate."""
        rule = self.rule
        return np.zeros(len(outputs), bool) if rule is None else rule.gate(outputs)


@dataclass(frozen=True)
class RulePolicy:
    """Exits by a rule that nothing certifies; None defers everything."""

    rule: ExitRule | None

    def decide(self, outputs: Stage1Outputs) -> Decisions:
        """See `Policy.decide`."""
        return Decisions.from_exit_labels(exit_labels(self.rule, outputs), np.zeros(len(outputs), bool))


def exit_labels(rule: ExitRule | None, outputs: Stage1Outputs) -> NDArray[np.int8]:
    """Label each image exits with, int8 `(N,)`; without a rule everything is deferred."""
    return np.full(len(outputs), DEFERRED, np.int8) if rule is None else rule.exit_labels(outputs)

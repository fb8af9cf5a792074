"""Less than a certificate allows: how far a live rule stays below it, and what the certificate then says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stage1.certificate.params import Evidence, ScrcParams
from stage1.certificate.risks import Risk
from stage1.certificate.statements import PROMISES
from stage1.certificate.statistics.percent import at_least, at_most
from stage1.exit_rule import ExitRule

# Nothing has a lower score.
LOWEST = float(np.finfo(np.float32).min)
# A lower t0 takes from these conditions nothing but exits with 0, which are all misses among positives.
IMPLIED = frozenset({Risk.MISS_ALL, Risk.MISS_GATED, Risk.MISS_EXIT, Risk.MISS_JOINT})


@dataclass(frozen=True)
class Caution:
    """What a rule does not do although it is certified to.

    Attributes:
        theta: taken off t0, in logits; not negative.
        exits0: whether anything exits as no roadwork.
        exits: whether anything exits at all.
    """

    theta: float = 0.0
    exits0: bool = True
    exits: bool = True

    def __post_init__(self) -> None:
        if not self.theta >= 0:
            raise ValueError(f"theta is {self.theta}: a certified threshold is only ever lowered")

    def applied(self, rule: ExitRule | None) -> ExitRule | None:
        """The rule that is used, None if everything is deferred; nothing exits with 0 that would not as certified."""
        if rule is None or not self.exits:
            return None
        t0 = rule.t0 - self.theta if self.exits0 else LOWEST
        return rule if t0 == rule.t0 else rule.model_copy(update={"t0": max(t0, LOWEST)})


NO_CAUTION = Caution()


def statement_under(params: ScrcParams, caution: Caution) -> str:
    """The certificate of a rule that is used with caution.

    Args:
        params: the certificate.
        caution: with which its rule is used.
    """
    rule = params.rule
    if rule is None or caution == NO_CAUTION:
        return params.statement
    if not caution.exits:
        return "Nothing exits at present: every image is deferred to Stage-2, and the certificate is not used."
    if not caution.exits0:
        told = ["Nothing exits as no roadwork at present, whatever the certified t0 allows; exits as roadwork go on."]
    else:
        lower = f"t0 is {rule.t0 - caution.theta:.4g}, {caution.theta:.4g} logits below the certified {rule.t0:.4g}"
        told = [f"{lower}: fewer images exit as no roadwork."]
    implied = [_claim(one) for one in params.evidence if one.claim == "risk" and one.risk in IMPLIED]
    lost = [_claim(one) for one in params.evidence if one.claim == "coverage" or one.risk not in IMPLIED]
    if implied:
        told.append(f"Implied by what was certified at the larger t0: {'; '.join(implied)}.")
    if lost:
        told.append(f"Certified at the larger t0 alone, and not at this one: {'; '.join(lost)}.")
    return " ".join(told)


def _claim(evidence: Evidence) -> str:
    where = f" in subgroup {evidence.subgroup!r}" if evidence.subgroup else ""
    if evidence.risk is None:
        return f"at least {at_least(evidence.bound)} of all images exit{where}"
    return PROMISES[evidence.risk].format(bound=at_most(evidence.bound)) + where

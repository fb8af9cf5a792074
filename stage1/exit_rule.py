"""The exit rule: two label-specific thresholds behind a gate, and heads that may have to agree.

References:
    Xu, Guo, Wei (2025), Selective conformal risk control, arXiv 2512.12844, section 2 (prediction sets behind a gate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, model_validator

from stage1.decisions import Labels
from stage1.outputs import Floats, Stage1Outputs

Mask = NDArray[np.bool_]
ONE = np.int8(1)


def apply_exit_rule(
    score: Floats,
    select_score: Floats,
    *,
    tau: float,
    t0: float,
    t1: float,
    zero: Mask | None = None,
    one: Mask | None = None,
) -> Labels:
    """The exit rule for N images.

    Args:
        score: roadwork scores, `(N,)`.
        select_score: selection scores, `(N,)`.
        tau: an image may exit only if its selection score is at least tau.
        t0: exit with label 0 strictly below t0.
        t1: exit with label 1 at or above t1; at least t0.
        zero: images that may exit with 0 as far as other heads go, `(N,)`; None for all.
        one: images that may exit with 1 as far as other heads go, `(N,)`; None for all.

    Returns:
        int8 `(N,)`: 0, 1, or -1 for deferred.
    """
    as_zero, as_one = score < t0, score >= t1
    if zero is not None and one is not None:
        as_zero &= zero
        as_one &= one
    exits = (as_zero | as_one) & (select_score >= tau)
    # All bits of a deferred row's label are set; t0 <= t1, so a row that exits has one reason only.
    labels: Labels = as_one.view(np.int8) | (exits.view(np.int8) - ONE)
    return labels


@dataclass(frozen=True)
class Eligible:
    """What an exit rule leaves open when t0 is not yet chosen.

    Attributes:
        score: roadwork scores, `(N,)`.
        gate: the selection score passes the gate, `(N,)`.
        zero: exits with 0 if its score is below t0, `(N,)`.
        one: exits with 1 unless it exits with 0, `(N,)`.
    """

    score: Floats
    gate: Mask
    zero: Mask
    one: Mask


class HeadAgreement(BaseModel):
    """A named head without whose consent nothing exits.

    Attributes:
        head: name of the head.
        cut: the head says roadwork at or above this log-odds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    head: str
    cut: float

    def says_roadwork(self, outputs: Stage1Outputs, moved: float = 0.0) -> Mask:
        """Bool `(N,)`; `moved` is added to the score of the head."""
        says: Mask = outputs.head_score(self.head) + np.float32(moved) >= self.cut
        return says


class ExitRule(BaseModel):
    """Thresholds of the exit rule, in logits.

    Attributes:
        tau: gate on the selection score.
        t0: exit with label 0 strictly below.
        t1: exit with label 1 at or above.
        agreement: heads that must say the label an image exits with.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tau: float
    t0: float
    t1: float
    agreement: tuple[HeadAgreement, ...] = ()

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t0 > self.t1:
            raise ValueError(f"t0 = {self.t0} is above t1 = {self.t1}")
        return self

    def exit_labels(self, outputs: Stage1Outputs) -> Labels:
        """Label each image exits with, -1 where it is deferred: int8 `(N,)`.

        Raises:
            stage1.errors.OutputsError: a head that must agree is missing.
        """
        zero, one = consent(outputs, self.agreement)
        return apply_exit_rule(
            outputs.roadwork_score, outputs.select_score, tau=self.tau, t0=self.t0, t1=self.t1, zero=zero, one=one
        )

    def gate(self, outputs: Stage1Outputs) -> Mask:
        """Bool `(N,)`: the selection score passes the gate."""
        passes: Mask = outputs.select_score >= self.tau
        return passes

    def settled(self, outputs: Stage1Outputs, tolerance: float) -> Mask:
        """Images that are decided alike by whatever differs by at most `tolerance` in every output, bool `(N,)`.

        Args:
            outputs: Stage-1 outputs of N images.
            tolerance: largest difference of a logit or of the selection score; a score is a difference of two logits.
        """
        said = [
            (head.says_roadwork(outputs, -2 * tolerance), head.says_roadwork(outputs, 2 * tolerance))
            for head in self.agreement
        ]
        # The regions of the rule are boxes in these scores: what all corners agree on holds in between.
        corners = [
            apply_exit_rule(
                outputs.roadwork_score + np.float32(2 * score),
                outputs.select_score + np.float32(select),
                tau=self.tau,
                t0=self.t0,
                t1=self.t1,
                zero=~np.logical_or.reduce([pair[side] for pair in said]) if said else None,
                one=np.logical_and.reduce([pair[side] for pair in said]) if said else None,
            )
            for score in (-tolerance, tolerance)
            for select in (-tolerance, tolerance)
            for side in (0, 1)
        ]
        alike: Mask = np.all(np.asarray(corners) == corners[0], axis=0)
        return alike


def consent(outputs: Stage1Outputs, agreement: tuple[HeadAgreement, ...]) -> tuple[Mask | None, Mask | None]:
    """Images that every one of these heads lets exit with 0, and with 1; None for all."""
    if not agreement:
        return None, None
    says = np.stack([head.says_roadwork(outputs) for head in agreement])
    zero: Mask = ~np.logical_or.reduce(says)
    one: Mask = np.logical_and.reduce(says)
    return zero, one


def eligible(outputs: Stage1Outputs, *, tau: float, t1: float, agreement: tuple[HeadAgreement, ...] = ()) -> Eligible:
    """What the rule with these parameters leaves open."""
    score, gate = outputs.roadwork_score, outputs.select_score >= tau
    zero, one = consent(outputs, agreement)
    as_one = gate & (score >= t1)
    return Eligible(score, gate, gate if zero is None else gate & zero, as_one if one is None else as_one & one)

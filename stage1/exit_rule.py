"""The exit rule: two label-specific thresholds behind a gate, and heads that may have to agree.

References:
    Xu, Guo, Wei (2025), Selective conformal risk control, arXiv 2512.12844, section 2 (prediction sets behind a gate).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from stage1.decisions import Labels
from stage1.outputs import Floats, GateScore, Stage1Outputs

Mask = NDArray[np.bool_]
ONE = np.int8(1)


def apply_exit_rule(
    score: Floats,
    confidence: Floats,
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
        confidence: what the gate asks, `(N,)`; see `Stage1Outputs.confidence`.
        tau: an image may exit only if that is at least tau.
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
    exits = (as_zero | as_one) & (confidence >= tau)
    # All bits of a deferred row's label are set; t0 <= t1, so a row that exits has one reason only.
    labels: Labels = as_one.view(np.int8) | (exits.view(np.int8) - ONE)
    return labels


@dataclass(frozen=True)
class Eligible:
    """What an exit rule leaves open when t0 is not yet chosen.

    Attributes:
        score: roadwork scores, `(N,)`.
        gate: the row passes the gate, `(N,)`.
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

    With two classes the margin is the absolute roadwork score, so a gate on it cuts the same line as t0 and t1 and adds
    nothing to them: a rule that is calibrated on the margin has tau 0, which everything passes.

    Attributes:
        tau: lowest gate score with which an image may exit.
        t0: exit with label 0 strictly below.
        t1: exit with label 1 at or above.
        agreement: heads that must say the label an image exits with.
        gate_score: what the gate asks. A file that does not name it is one of the selection score, and a rule of the
            selection score is written without it, so that seals of such files hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tau: float
    t0: float
    t1: float
    agreement: tuple[HeadAgreement, ...] = ()
    gate_score: GateScore = "select_score"

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.t0 > self.t1:
            raise ValueError(f"t0 = {self.t0} is above t1 = {self.t1}")
        return self

    @model_serializer(mode="wrap")
    def _named_if_new(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_old_gate(handler(self))

    def exit_labels(self, outputs: Stage1Outputs) -> Labels:
        """Label each image exits with, -1 where it is deferred: int8 `(N,)`.

        Raises:
            stage1.errors.OutputsError: a head that must agree is missing.
        """
        zero, one = consent(outputs, self.agreement)
        return apply_exit_rule(
            outputs.roadwork_score,
            outputs.confidence(self.gate_score),
            tau=self.tau,
            t0=self.t0,
            t1=self.t1,
            zero=zero,
            one=one,
        )

    def gate(self, outputs: Stage1Outputs) -> Mask:
        """Bool `(N,)`: the image passes the gate."""
        passes: Mask = outputs.confidence(self.gate_score) >= self.tau
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
                score,
                confidence,
                tau=self.tau,
                t0=self.t0,
                t1=self.t1,
                zero=~np.logical_or.reduce([pair[side] for pair in said]) if said else None,
                one=np.logical_and.reduce([pair[side] for pair in said]) if said else None,
            )
            for score, confidence in self._near(outputs, tolerance)
            for side in (0, 1)
        ]
        alike: Mask = np.all(np.asarray(corners) == corners[0], axis=0)
        return alike

    def _near(self, outputs: Stage1Outputs, tolerance: float) -> list[tuple[Floats, Floats]]:
        """Scores and what the gate asks, `(N,)` each, at the corners of what the tolerance allows."""
        low, high = (outputs.roadwork_score + np.float32(moved) for moved in (-2 * tolerance, 2 * tolerance))
        if self.gate_score == "select_score":
            selects = [outputs.select_score + np.float32(moved) for moved in (-tolerance, tolerance)]
            return [(score, select) for score in (low, high) for select in selects]
        # The margin moves with the score, and its gate closes between -tau and tau: both sides of either are asked.
        tau = np.float32(self.tau)
        inside = np.nextafter(tau, np.float32(0))
        edges = np.array([-tau, -inside, inside, tau], np.float32)
        scores = [low, high, *np.clip(edges[:, None], low, high)]
        margins: list[Floats] = [np.abs(score) for score in scores]
        return list(zip(scores, margins, strict=True))


def without_old_gate(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of a rule or a certificate as they are in files of a time when every gate asked the selection score."""
    return {name: value for name, value in fields.items() if (name, value) != ("gate_score", "select_score")}


def consent(outputs: Stage1Outputs, agreement: tuple[HeadAgreement, ...]) -> tuple[Mask | None, Mask | None]:
    """Images that every one of these heads lets exit with 0, and with 1; None for all."""
    if not agreement:
        return None, None
    says = np.stack([head.says_roadwork(outputs) for head in agreement])
    zero: Mask = ~np.logical_or.reduce(says)
    one: Mask = np.logical_and.reduce(says)
    return zero, one


def eligible(
    outputs: Stage1Outputs,
    *,
    tau: float,
    t1: float,
    agreement: tuple[HeadAgreement, ...] = (),
    gate_score: GateScore = "select_score",
) -> Eligible:
    """What the rule with these parameters leaves open."""
    score, gate = outputs.roadwork_score, outputs.confidence(gate_score) >= tau
    zero, one = consent(outputs, agreement)
    as_one = gate & (score >= t1)
    return Eligible(score, gate, gate if zero is None else gate & zero, as_one if one is None else as_one & one)

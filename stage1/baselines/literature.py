"""Exit rules of the literature, for a report to show beside the certified one. None of them ever serves.

SCRC-T and CRC control a risk in expectation over calibration draws: about a third of the draws exceed it. SCRC-I is a
bound with high probability, and takes tens of thousands of rows at a risk of 2%. Swept thresholds promise nothing.

References:
    Xu, Guo, Wei (2026), Selective conformal risk control, arXiv 2512.12844v2: SCRC-T sections 4.1-4.3, SCRC-I 4.5.
    Angelopoulos, Bates, Fisch, Lei, Schuster (2022), Conformal risk control, arXiv 2208.02814, theorem 1.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from stage1.artifacts import Artifact
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import Candidates
from stage1.exit_rule import ExitRule, Mask
from stage1.outputs import Floats, GateScore

RuleName = Literal["scrc_i", "scrc_t", "scrc_t_label", "crc"]
ON_AVERAGE = "not for a given calibration draw, if images are independent"
LOWEST = float(np.finfo(np.float32).min)
# Of SCRC-I: sizes of the grid of lambda_1, and of that of lambda_2 from 1/2 to 1.
GATES, LEVELS = 10, 10


class ReferenceRule(BaseModel):
    """A rule of the literature on this data.

    Attributes:
        name: which.
        rule: the rule, None if it is infeasible.
        promise: what its theorem promises.
        reason: why it is infeasible, and what it would take; empty if it is not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: RuleName
    rule: ExitRule | None
    promise: str
    reason: str = ""


class ReferenceRules(Artifact):
    """`reference_rules.json`: the rules of the literature beside a certificate.

    Attributes:
        alpha: risk that each of them is run at.
        delta: one minus the confidence of SCRC-I.
        coverage: coverage of the gate of SCRC-T and SCRC-I.
        rules: the rules.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    alpha: float
    delta: float
    coverage: float
    rules: tuple[ReferenceRule, ...]


def reference_rules(
    val_select: LabelledOutputs,
    data: LabelledOutputs,
    candidates: Candidates,
    *,
    alpha: float,
    delta: float,
    coverage: float,
) -> ReferenceRules:
    """Every rule on the rows of val_calib.

    Args:
        val_select: rows that give SCRC-I its grid of gates.
        data: rows of val_calib; every row counts as independent.
        candidates: gate and t1 from val_select, for the rules that choose t0 alone, and what all gates ask.
        alpha: risk.
        delta: one minus the confidence of SCRC-I.
        coverage: coverage of the gate of SCRC-T and SCRC-I.
    """
    asks, chain = candidates.gate_score, candidates.chains[0]
    known = val_select.outputs.confidence(asks)
    rules = (
        scrc_i(data, known, alpha=alpha, delta=delta, coverage=coverage, gate_score=asks),
        scrc_t(data, alpha=alpha, coverage=coverage, gate_score=asks),
        scrc_t_label(data, alpha=alpha, coverage=coverage, t1=chain.t1, gate_score=asks),
        crc(data, alpha=alpha, tau=chain.tau, t1=chain.t1, gate_score=asks),
    )
    return ReferenceRules(alpha=alpha, delta=delta, coverage=coverage, rules=rules)


def conformal_budget(rows: int, alpha: float) -> int:
    """Losses that conformal risk control allows among so many rows for a 0/1 loss; negative if infeasible.

    The printed rule of SCRC-T (Eq. 15), ceil((m + 1) alpha) - 1, allows one too many: its risk is
    ceil((m + 1) alpha) / (m + 1), which exceeds alpha unless (m + 1) alpha is a whole number.
    """
    # A product that is whole on paper may lie a rounding error below.
    return math.floor((rows + 1) * alpha + 1e-9) - 1


def selected(confidence: Floats, coverage: float) -> tuple[float, Mask]:
    """Gate of SCRC-T for a test image, and the calibration rows that any image behind it is compared with.

    A test image is selected if its score is at least the q-th lowest calibration score, q being the whole part of
    (1 - coverage)(n + 1); the rows to compare with are those at or above the next one, the same for every selected
    image (Eq. 11 and 13).

    Args:
        confidence: gate score of the calibration rows, `(N,)`.
        coverage: share of images that are to be selected.
    """
    q = math.floor((1 - coverage) * (len(confidence) + 1) + 1e-9)
    ranked = np.sort(confidence)
    tau = LOWEST if q == 0 else float(ranked[q - 1])
    barrier = ranked[q] if q < len(ranked) else np.float32(np.inf)
    return tau, confidence >= barrier


def scrc_t(
    data: LabelledOutputs, *, alpha: float, coverage: float, gate_score: GateScore = "select_score"
) -> ReferenceRule:
    """SCRC-T with the corrected budget: P(label not in the set | selected) is at most alpha, in expectation.

    The set holds every label whose probability is at least 1 - lambda; lambda < 1/2 would make some sets empty.
    """
    promise = f"E[label outside the set | selected] <= alpha, {ON_AVERAGE}"
    tau, rows = selected(data.outputs.confidence(gate_score), coverage)
    allowed = conformal_budget(int(rows.sum()), alpha)
    if allowed < 0:
        return _infeasible("scrc_t", promise, int(rows.sum()), alpha, "selected rows")
    barrier = min(float(np.sort(_true_label_score(data)[rows])[allowed]), 0.0)
    return ReferenceRule(name="scrc_t", rule=symmetric_rule(tau, barrier, gate_score), promise=promise)


def scrc_t_label(
    data: LabelledOutputs, *, alpha: float, coverage: float, t1: float, gate_score: GateScore = "select_score"
) -> ReferenceRule:
    """SCRC-T for the positives alone: D2', misses among roadwork behind the gate, at most alpha in expectation."""
    promise = f"E[missed | roadwork, selected] <= alpha, {ON_AVERAGE}"
    tau, rows = selected(data.outputs.confidence(gate_score), coverage)
    scores = np.sort(data.outputs.roadwork_score[rows & data.positive])
    allowed = conformal_budget(len(scores), alpha)
    if allowed < 0:
        return _infeasible("scrc_t_label", promise, len(scores), alpha, "selected positives")
    rule = ExitRule(tau=tau, t0=min(float(scores[allowed]), t1), t1=t1, gate_score=gate_score)
    return ReferenceRule(name="scrc_t_label", rule=rule, promise=promise)


def crc(
    data: LabelledOutputs, *, alpha: float, tau: float, t1: float, gate_score: GateScore = "select_score"
) -> ReferenceRule:
    """Algorithm A in its conformal form: D1 at most alpha in expectation."""
    promise = f"E[missed | roadwork] <= alpha, {ON_AVERAGE}"
    gate = data.outputs.confidence(gate_score)[data.positive] >= tau
    scores = np.sort(np.where(gate, data.outputs.roadwork_score[data.positive], np.float32(np.inf)))
    allowed = conformal_budget(len(scores), alpha)
    if allowed < 0:
        return _infeasible("crc", promise, len(scores), alpha, "positives")
    rule = ExitRule(tau=tau, t0=min(float(scores[allowed]), t1), t1=t1, gate_score=gate_score)
    return ReferenceRule(name="crc", rule=rule, promise=promise)


def scrc_i(
    data: LabelledOutputs,
    known: Floats,
    *,
    alpha: float,
    delta: float,
    coverage: float,
    gate_score: GateScore = "select_score",
) -> ReferenceRule:
    """SCRC-I as printed in v2 (Eqs. 17-22): P(label not in the set | selected) <= alpha with probability 1 - delta.

    Args:
        data: rows of val_calib.
        known: gate scores of other rows, whose quantiles are the grid of lambda_1: Prop. 4 wants it fixed, `(M,)`.
        alpha: risk.
        delta: one minus the confidence.
        coverage: share of images that are to be selected.
        gate_score: what the gate asks.
    """
    promise = "P(label outside the set | selected) <= alpha with confidence 1 - delta, if images are independent"
    score, rows = data.outputs.confidence(gate_score), len(data)
    taus = np.append(np.float32(LOWEST), np.quantile(known, np.arange(1, GATES) / GATES).astype(np.float32))
    shares = np.array([np.mean(score >= tau) for tau in taus])
    tau, share = max(zip(taus[shares >= coverage], shares[shares >= coverage], strict=True), key=lambda pair: pair[0])
    certain = max(float(share) - math.sqrt(math.log(4 / delta) / (2 * rows)), 0.0)
    error = math.sqrt(math.log(4 * GATES * LEVELS / delta) / (2 * rows))
    true_score = _true_label_score(data)
    # lambda_2 from 1/2 to 1 asks for a probability of at least 1 - lambda_2; at 1 every set is {0, 1}.
    for needed in np.linspace(0.5, 0, LEVELS):
        barrier = math.log(needed / (1 - needed)) if needed > 0 else LOWEST
        lost = float(np.mean((score >= tau) & (true_score < np.float32(barrier))))
        if needed > 0 and lost + error <= alpha * certain:
            return ReferenceRule(name="scrc_i", rule=symmetric_rule(float(tau), barrier, gate_score), promise=promise)
    enough = scrc_i_rows_needed(alpha, delta, coverage, GATES * LEVELS)
    reason = (
        f"with {rows} rows the correction alone is {error:.3f}, the bound must stay below alpha times coverage, "
        f"{alpha * certain:.3f}; without a single error it takes {enough} rows"
    )
    return ReferenceRule(name="scrc_i", rule=None, promise=promise, reason=reason)


def scrc_i_rows_needed(alpha: float, delta: float, coverage: float, pairs: int) -> int:
    """Fewest rows with which SCRC-I is feasible if not a single label is outside its set.

    Args:
        alpha: risk.
        delta: one minus the confidence.
        coverage: share of the rows that are selected.
        pairs: size of the grid, |L1| |L2|.
    """
    # eps_N <= alpha (coverage - eps_q) is linear in 1 / sqrt(n).
    scaled = math.sqrt(math.log(4 * pairs / delta) / 2) + alpha * math.sqrt(math.log(4 / delta) / 2)
    return math.ceil((scaled / (alpha * coverage)) ** 2)


def symmetric_rule(tau: float, barrier: float, gate_score: GateScore = "select_score") -> ExitRule:
    """The set of labels with a log-odds of at least `barrier` <= 0, behind a gate."""
    t1 = float(np.nextafter(np.float32(-barrier), np.float32(np.inf)))
    return ExitRule(tau=tau, t0=barrier, t1=t1, gate_score=gate_score)


def _true_label_score(data: LabelledOutputs) -> Floats:
    """Log-odds of the true label, `(N,)`."""
    score = data.outputs.roadwork_score
    return np.where(data.positive, score, -score)


def _infeasible(name: RuleName, promise: str, rows: int, alpha: float, what: str) -> ReferenceRule:
    needed = math.ceil(1 / alpha - 1e-9) - 1
    return ReferenceRule(name=name, rule=None, promise=promise, reason=f"{rows} {what}, at least {needed} are needed")

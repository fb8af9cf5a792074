"""Losses with the exit threshold inside: what calibration would choose, as a differentiable function of the scores.

On one half of a batch the threshold t0 is found as calibration would find it: for D1 as an order statistic of the
positives' scores, for D2 as the root of its risk in t0. On the other half the loss asks how much would then be
deferred. The gradient of an order statistic is that of the scores it is made of; the gradient of a root follows from
the implicit function theorem.

References:
    Yeh, Christianson, Wierman, Yue (2025), Conformal risk training, arXiv 2510.08748.
    Angelopoulos, Bates, Fisch, Lei, Schuster (2022), Conformal risk control, arXiv 2208.02814, theorem 1.
    Rockafellar and Uryasev (2000), Optimization of conditional value-at-risk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from stage1.outputs import GateScore

BISECTIONS = 60
WINDOW_SHARE = 0.0125


@dataclass(frozen=True)
class SoftRule:
    """The exit rule with soft thresholds.

    Attributes:
        t0: exit with 0 below, a scalar.
        t1: exit with 1 above, a scalar.
        temperature: softness of both, in logits.
    """

    t0: Tensor
    t1: Tensor
    temperature: float

    def exits_as_zero(self, score: Tensor, gate: Tensor) -> Tensor:
        """Soft share of each row that exits with 0, `(N,)`."""
        return gate * torch.sigmoid((self.t0 - score) / self.temperature)

    def exits_as_one(self, score: Tensor, gate: Tensor) -> Tensor:
        """Soft share of each row that exits with 1, `(N,)`."""
        return gate * torch.sigmoid((score - self.t1) / self.temperature)


def order_statistic_threshold(score: Tensor, gate: Tensor, alpha: float) -> Tensor | None:
    """Threshold that conformal risk control would choose for D1, with gradient.

    The budget is k = floor(alpha (n + 1)) - 1 misses among n positives, those behind the gate counting as never missed;
    the threshold is the mean of a few order statistics around the (k + 1)-th lowest score, so that more than one score
    receives gradient.

    Args:
        score: roadwork scores of positives, `(n,)`.
        gate: soft gate of the same rows, `(n,)`; above one half it passes.
        alpha: miss rate, in (0, 1).

    Returns:
        A scalar, or None if there are too few positives for a budget of at least one.
    """
    count = len(score)
    budget = math.floor(alpha * (count + 1)) - 1
    passing = score[gate.detach() >= 0.5]
    if budget < 1 or budget >= len(passing):
        return None
    window = max(1, math.ceil(WINDOW_SHARE * count))
    ordered = passing.sort().values
    return ordered[max(0, budget - window) : budget + window + 1].mean()


def implicit_threshold(score: Tensor, gate: Tensor, alpha: float, *, t1: Tensor, temperature: float) -> Tensor | None:
    """Threshold at which the soft D2 of these positives meets its conformal budget, with implicit gradient.

    With soft counts a(t0) of misses and b of exits with 1, conformal risk control of the loss exit * (miss - alpha),
    whose largest value is 1 - alpha, asks for F(t0) = (1 - alpha) a(t0) - alpha b + (1 - alpha) <= 0. Where a batch is
    too small for that, the last term is left out. F grows with t0, so its root is found by bisection, and one Newton
    step from there carries the gradient -(dF / dtheta) / (dF / dt0).

    Args:
        score: roadwork scores of positives, `(n,)`.
        gate: soft gate of the same rows, `(n,)`.
        alpha: miss rate on exits, in (0, 1).
        t1: exit-1 threshold, a scalar.
        temperature: softness of the thresholds, in logits.

    Returns:
        A scalar, or None if no roadwork exits, or all of it may.
    """
    hits = (gate * torch.sigmoid((score - t1) / temperature)).sum()
    slack = 1 - alpha if alpha * float(hits.detach()) > 1 - alpha else 0.0

    def excess(t0: Tensor) -> Tensor:
        misses = (gate * torch.sigmoid((t0 - score) / temperature)).sum()
        return (1 - alpha) * misses - alpha * hits + slack

    with torch.no_grad():
        low, high = score.min() - 40 * temperature, score.max() + 40 * temperature
        if float(excess(low)) > 0 or float(excess(high)) < 0:
            return None
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if float(excess(middle)) <= 0 else (low, middle)
        soft = torch.sigmoid((low - score) / temperature)
        slope = (1 - alpha) * (gate * soft * (1 - soft)).sum() / temperature
    if float(slope) < torch.finfo(score.dtype).tiny:
        return None
    return low - excess(low) / slope


def exit_one_threshold(score: Tensor, positive: Tensor, false_alarm_share: float) -> Tensor:
    """The t1 that calibration would choose on these rows, without gradient, a scalar.

    It is the score that at most `false_alarm_share` of the negatives exceed, and never below the cut with the highest
    balanced accuracy: see `stage1.certificate.search.candidates`.

    Args:
        score: roadwork scores, `(n,)`, of both classes.
        positive: which rows show roadwork, bool `(n,)`.
        false_alarm_share: share of the negatives that may exit with 1.
    """
    score = score.detach()
    quiet = score[~positive].quantile(1 - false_alarm_share)
    ordered, order = score.sort()
    ranked = positive[order].to(score.dtype)
    missed, cleared = ranked.cumsum(0), (1 - ranked).cumsum(0)
    # A cut above the last row gains nothing, so the places between two rows are all there are.
    gain = (cleared / cleared[-1] - missed / missed[-1])[:-1]
    at = int(gain.argmax())
    return torch.maximum(quiet, (ordered[at] + ordered[at + 1]) / 2)


def conditional_value_at_risk(losses: Tensor, groups: Tensor, level: float) -> Tensor:
    """Mean loss of the worst groups: of the share `1 - level` of them with the highest mean loss.

    Args:
        losses: of each row, `(N,)`, N >= 1.
        groups: integer group of each row, `(N,)`.
        level: in [0, 1); 0 is the mean over groups.
    """
    _, place = torch.unique(groups, return_inverse=True)
    count = torch.zeros(int(place.max()) + 1, dtype=losses.dtype, device=losses.device)
    total = count.index_add(0, place, losses)
    mean = total / count.index_add(0, place, torch.ones_like(losses))
    # The last of the worst groups counts for what is left of the share.
    share = (1 - level) * len(mean)
    worst = mean.sort(descending=True).values[: math.ceil(share - 1e-9)]
    weight = torch.ones_like(worst)
    weight[-1] = share - (len(worst) - 1)
    return (weight * worst).sum() / share


@dataclass(frozen=True)
class RiskWeights:
    """What the risk loss is made of.

    Attributes:
        risk: `D1` or `D2`, whose threshold is inside the loss.
        alpha: its level inside a batch.
        temperature: softness of the thresholds, in logits.
        gate: what the gate asks. The margin lets everything pass, as calibration does; the selection score has a soft
            gate.
        gate_share: share of the batch that the soft gate holds back.
        false_alarm_share: share of the negatives that may exit with 1; sets t1.
        false_alarm: weight of exits with 1 among negatives.
        undecided: weight of positives that do not exit with 1.
        cvar: weight of the misses in the worst groups; 0 for none.
        cvar_level: share of the groups that is not among the worst.
    """

    risk: Literal["D1", "D2"] = "D2"
    alpha: float = 0.05
    temperature: float = 0.25
    gate: GateScore = "margin"
    gate_share: float = 0.05
    false_alarm_share: float = 0.02
    false_alarm: float = 5.0
    undecided: float = 0.5
    cvar: float = 0.0
    cvar_level: float = 0.9


def risk_loss(
    logits: Tensor, select_score: Tensor, labels: Tensor, weights: RiskWeights, groups: Tensor | None = None
) -> Tensor | None:
    """Deferred negatives, false exits as 1 and undecided positives at the batch's own thresholds.

    The first half of the batch finds the thresholds, the second is judged by them.

    Args:
        logits: `(N, 2)`.
        select_score: `(N,)`.
        labels: `(N,)`, 0 or 1.
        weights: see `RiskWeights`.
        groups: integer group of each row, `(N,)`; needed if `weights.cvar` is above 0.

    Returns:
        A scalar, or None if the batch has too few positives or negatives.
    """
    score, half = logits[:, 1] - logits[:, 0], len(labels) // 2
    gate = _gate(select_score, weights)
    positive = labels == 1
    positives = score[:half][positive[:half]]
    judged = score[half:], gate[half:], positive[half:]
    if not 0 < len(positives) < half or not judged[2].any() or judged[2].all():
        return None
    t1 = exit_one_threshold(score[:half], positive[:half], weights.false_alarm_share)
    passing = gate[:half][positive[:half]]
    if weights.risk == "D1":
        t0 = order_statistic_threshold(positives, passing, weights.alpha)
    else:
        t0 = implicit_threshold(positives, passing, weights.alpha, t1=t1, temperature=weights.temperature)
    if t0 is None:
        return None
    rule = SoftRule(torch.minimum(t0, t1), t1, weights.temperature)
    return _judged(rule, *judged, weights, None if groups is None else groups[half:])


def _gate(select_score: Tensor, weights: RiskWeights) -> Tensor:
    """Soft gate of each row, `(N,)`."""
    if weights.gate == "margin":
        return torch.ones_like(select_score)
    known = select_score.detach()
    return torch.sigmoid((select_score - known.quantile(weights.gate_share)) / (0.25 * known.std() + 1e-6))


def _judged(
    rule: SoftRule, score: Tensor, gate: Tensor, positive: Tensor, weights: RiskWeights, groups: Tensor | None
) -> Tensor:
    as_zero, as_one = rule.exits_as_zero(score, gate), rule.exits_as_one(score, gate)
    loss = (
        (1 - as_zero[~positive]).mean()
        + weights.false_alarm * as_one[~positive].mean()
        + weights.undecided * (1 - as_one[positive]).mean()
    )
    if weights.cvar and groups is not None:
        worst = conditional_value_at_risk(as_zero[positive], groups[positive], weights.cvar_level)
        loss = loss + weights.cvar * worst
    return loss

"""Losses of supervised training.

References:
    Geifman and El-Yaniv (2019), SelectiveNet, arXiv 1901.09192, equations 1 to 6.
    Menon et al. (2021), Long-tail learning via logit adjustment, arXiv 2007.07314, equation 10.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from offline.data.named_targets import NO_TARGET
from offline.learning.settings import TrainSettings
from stage1.model.net import NetOutputs

COVERAGE_PENALTY = 32.0
TASK_SHARE = 0.5


def selection_loss(select_score: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the selection score against "the class head is right"; no gradient to the class head.

    Args:
        select_score: `(N,)`.
        logits: `(N, 2)`.
        labels: `(N,)`, 0 or 1.
    """
    right = (logits.detach().argmax(1) == labels).float()
    return F.binary_cross_entropy_with_logits(select_score, right)


def selective_net_loss(
    select_score: Tensor, logits: Tensor, labels: Tensor, *, coverage: float, label_smoothing: float = 0.0
) -> Tensor:
    """Classification loss of what is selected, held to a mean soft coverage, a scalar.

    Args:
        select_score: `(N,)`; its sigmoid is the soft selection.
        logits: `(N, 2)`.
        labels: `(N,)`, 0 or 1.
        coverage: mean soft selection below which a penalty grows quadratically, in (0, 1].
        label_smoothing: of the cross-entropy.
    """
    selected = torch.sigmoid(select_score)
    losses = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
    risk = (losses * selected).mean() / selected.mean()
    return risk + COVERAGE_PENALTY * (coverage - selected.mean()).clamp(min=0).square()


def named_loss(named: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Tensor | None:
    """Sum of the cross-entropies of the named heads over the rows that have a target; None if none has.

    Args:
        named: logits `(N, K)` by head.
        targets: classes `(N,)` by head, `NO_TARGET` where there is none.
    """
    terms = [
        F.cross_entropy(logits, targets[name], ignore_index=NO_TARGET)
        for name, logits in named.items()
        if bool((targets[name] != NO_TARGET).any())
    ]
    return torch.stack(terms).sum() if terms else None


def supervised_loss(
    outputs: NetOutputs,
    auxiliary: Tensor | None,
    labels: Tensor,
    targets: Mapping[str, Tensor],
    settings: TrainSettings,
    offset: Tensor | None = None,
) -> Tensor:
    """Everything that supervised training minimises, a scalar.

    Args:
        outputs: of the network, fp32.
        auxiliary: logits `(N, 2)` of the head that exists in training only; None without it.
        labels: `(N,)`, 0 or 1.
        targets: of the named heads.
        settings: weights of the terms.
        offset: added to the logits of roadwork where their classes are in a loss, `(2,)`: the logarithms of the class
            shares, so that the logits themselves answer as if both were equally frequent; None for nothing. Whether an
            answer is right is asked of the logits themselves.
    """
    smoothing = settings.label_smoothing
    logits = outputs.logits if offset is None else outputs.logits + offset
    plain = F.cross_entropy(logits, labels, label_smoothing=smoothing)
    if settings.selection == "correctness":
        loss = plain + settings.selection_weight * selection_loss(outputs.select_score, outputs.logits, labels)
    else:
        # The plain term keeps the class head calibrated where nothing is selected.
        selective = selective_net_loss(
            outputs.select_score,
            logits,
            labels,
            coverage=settings.selection_coverage,
            label_smoothing=smoothing,
        )
        loss = TASK_SHARE * plain + settings.selection_weight * selective
    if auxiliary is not None:
        shown = auxiliary if offset is None else auxiliary + offset
        loss = loss + settings.auxiliary_weight * F.cross_entropy(shown, labels, label_smoothing=smoothing)
    named = named_loss(outputs.named, targets)
    return loss if named is None else loss + settings.named_weight * named

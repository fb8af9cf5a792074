"""Losses of self-distillation: a student predicts, from one view, the cluster that its teacher assigns to another.

References:
    Caron et al. (2021), DINO, arXiv 2104.14294, equation 3 (the loss between views).
    Zhou et al. (2022), iBOT, arXiv 2111.07832, equation 3 (the loss on masked patches).
    Caron et al. (2020), SwAV, arXiv 2006.09882, appendix A (Sinkhorn-Knopp assignments).
    Oquab et al. (2023), DINOv2, arXiv 2304.07193, section 4 (both with Sinkhorn-Knopp, and KoLeo).
    Simeoni et al. (2025), DINOv3, arXiv 2508.10104, section 4 (the Gram anchor).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from offline.learning.ranks import team

STUDENT_TEMPERATURE = 0.1
SINKHORN_ROUNDS = 3


class PrototypeHead(nn.Module):
    """Features to scores of K prototypes: an MLP to a bottleneck on the unit sphere, then unit-norm prototypes.

    Args:
        width: of the features.
        hidden: width of the two hidden layers.
        bottleneck: width before the prototypes.
        prototypes: K.
    """

    def __init__(self, width: int, *, hidden: int, bottleneck: int, prototypes: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        # As a parametrisation it can be copied for the teacher, which the older hook cannot.
        self.prototypes = weight_norm(nn.Linear(bottleneck, prototypes, bias=False))
        length: nn.Parameter = self.prototypes.parametrizations.weight.original0
        length.data.fill_(1.0)
        length.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:
        """Scores `(N, K)` of features `(N, width)`."""
        scores: Tensor = self.prototypes(F.normalize(self.mlp(features), dim=-1, eps=1e-6))
        return scores


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, rounds: int = SINKHORN_ROUNDS) -> Tensor:
    """Soft assignments to clusters of equal size, over the batches of all processes.

    Args:
        scores: `(N, K)`.
        temperature: of the assignments.
        rounds: of normalising columns, then rows.

    Returns:
        fp32 `(N, K)`; each row sums to 1, and each column to nearly N / K.
    """
    # In logarithms: scores may lie so far apart that whole rows would vanish.
    logs = scores.float() / temperature
    for _ in range(rounds):
        logs = logs - _column_logsumexp(logs)
        logs = logs.log_softmax(1)
    return logs.exp()


def _column_logsumexp(logs: Tensor) -> Tensor:
    """Over the rows of all processes, `(1, K)`."""
    if team.size() == 1:
        return logs.logsumexp(0, keepdim=True)
    largest = logs.amax(0, keepdim=True)
    distributed.all_reduce(largest, distributed.ReduceOp.MAX)
    total = (logs - largest).exp().sum(0, keepdim=True)
    distributed.all_reduce(total)
    return largest + total.log()


def view_loss(targets: Sequence[Tensor], scores: Sequence[Tensor]) -> Tensor:
    """Cross-entropy between each teacher view and every other student view, a scalar.

    Args:
        targets: assignments `(N, K)` of each large view by the teacher.
        scores: of each view by the student, `(N, K)`, the same large views first.
    """
    logs = [F.log_softmax(each.float() / STUDENT_TEMPERATURE, dim=-1) for each in scores]
    terms = [-(target * log).sum(-1).mean() for i, target in enumerate(targets) for j, log in enumerate(logs) if i != j]
    return torch.stack(terms).mean()


def patch_weights(mask: Tensor) -> Tensor:
    """Weights of masked patches that give each image with any the same weight, `(M,)`, in the order of the mask.

    Args:
        mask: bool `(N, P)`, true for the M masked patches; an image without one weighs nothing, and still counts.
    """
    return (1.0 / (len(mask) * mask.sum(1, keepdim=True).clamp_min(1))).expand_as(mask)[mask]


def patch_loss(targets: Tensor, scores: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy on masked patches, a scalar.

    Args:
        targets: assignments `(M, K)` of the masked patches by the teacher, which sees them.
        scores: of the same patches by the student, which does not, `(M, K)`.
        weights: of `patch_weights`, `(M,)`.
    """
    losses = -(targets * F.log_softmax(scores.float() / STUDENT_TEMPERATURE, dim=-1)).sum(-1)
    return (losses * weights).sum()


def koleo(features: Tensor) -> Tensor:
    """Minus the mean log distance of each unit-norm feature `(N, D)` to its nearest neighbour; spreads them."""
    unit = F.normalize(features.float(), dim=1)
    # In bf16 the similarities of features that lie close together are equal, and the nearest is any of them.
    with torch.no_grad(), torch.autocast(unit.device.type, enabled=False):
        similarity = unit @ unit.T
        similarity.fill_diagonal_(-2)
        nearest = similarity.argmax(1)
    return -(F.pairwise_distance(unit, unit[nearest]) + 1e-8).log().mean()


def gram_loss(patches: Tensor, anchor: Tensor) -> Tensor:
    """Mean squared difference of the similarities between an image's patches, now and at the start.

    Args:
        patches: `(N, P, D)`.
        anchor: the same patches by the backbone as it was, `(N, P, D)`.
    """
    now, start = (F.normalize(each.float(), dim=-1) for each in (patches, anchor))
    # The difference of two similarities near 1 is below what bf16 can tell apart.
    with torch.autocast(now.device.type, enabled=False):
        return (now @ now.transpose(1, 2) - start @ start.transpose(1, 2)).square().mean()


def marginal_entropy(targets: Tensor) -> Tensor:
    """Entropy of the mean assignment, in [0, ln K]: near 0 means that all images fall into one cluster."""
    mean = targets.mean(0)
    return -(mean * mean.clamp_min(1e-12).log()).sum()

"""How the patches of an image become one vector for the heads.

A cone is one or two of some hundred patches, and their mean hides it. Attention pooling learns where to look: each of a
few queries is compared with every patch, and the patches are averaged with the softmax of how well they fit. The
projection of values that the paper has is the first layer of each head here. Scores are not divided by the square root
of the width, and queries start with a length of about 1, so that they tell patches apart from the first step: divided
scores stay near the mean for as long as most trainings last.

References:
    Psomas et al. (2025), Attention, Please! Revisiting Attentive Probing Through the Lens of Efficiency, arXiv
    2506.10178 (efficient probing: learned queries on the tokens as they are, without projected keys).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1.model.settings import Pooling


class AttentionPool(nn.Module):
    """Means of the patches of all views of an image together, weighted as learned queries ask.

    Args:
        channels: of a token, C.
        first_patch: index of the first patch among the tokens of a view.
        queries: number of queries, Q.
    """

    def __init__(self, channels: int, first_patch: int, queries: int) -> None:
        super().__init__()
        self.first_patch = first_patch
        self.queries = nn.Parameter(torch.randn(queries, channels) * channels**-0.5)
        self.width = queries * channels

    def weights(self, tokens: Tensor) -> Tensor:
        """How much each query takes of each patch, `(N, Q, V P)`, of tokens `(N, V, T, C)`; the last axis sums to 1."""
        return self._weights(self._patches(tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """Features `(N, Q C)` of tokens `(N, V, T, C)`."""
        patches = self._patches(tokens)
        return (self._weights(patches) @ patches).flatten(1)

    def _patches(self, tokens: Tensor) -> Tensor:
        return tokens[:, :, self.first_patch :].flatten(1, 2)

    def _weights(self, patches: Tensor) -> Tensor:
        # Grids of convolutional networks come in any scale, and the queries should not have to learn it.
        keys = F.layer_norm(patches, patches.shape[-1:])
        return (self.queries @ keys.transpose(1, 2)).softmax(-1)


class FixedPool(nn.Module):
    """A fixed summary of each view; of several views that of the whole, and the largest over the tiles of each value.

    Args:
        kind: `cls_mean` is the CLS token, or where there is none the largest value of each channel, and the mean patch;
            `mean` is the mean patch; `largest` is the largest value of each channel.
        channels: of a token, C.
        first_patch: index of the first patch among the tokens of a view; 0 without a CLS token.
        views: number of views, V.
    """

    def __init__(self, kind: Pooling, channels: int, first_patch: int, views: int) -> None:
        super().__init__()
        self.kind = kind
        self.first_patch = first_patch
        self.width = channels * (2 if kind == "cls_mean" else 1) * min(views, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Features `(N, width)` of tokens `(N, V, T, C)`."""
        found = self._summary(tokens)
        if found.shape[1] == 1:
            return found[:, 0]
        return torch.cat([found[:, 0], found[:, 1:].amax(1)], dim=1)

    def _summary(self, tokens: Tensor) -> Tensor:
        patches = tokens[:, :, self.first_patch :]
        if self.kind == "largest":
            return patches.amax(2)
        if self.kind == "mean":
            return patches.mean(2)
        summary = tokens[:, :, 0] if self.first_patch else patches.amax(2)
        return torch.cat([summary, patches.mean(2)], dim=2)


def pool_of(kind: Pooling, channels: int, first_patch: int, *, views: int, queries: int) -> AttentionPool | FixedPool:
    """The pool of this name.

    Args:
        kind: `attention`, or a fixed summary.
        channels: of a token.
        first_patch: index of the first patch among the tokens of a view.
        views: views of an image.
        queries: of attention.
    """
    if kind == "attention":
        return AttentionPool(channels, first_patch, queries)
    return FixedPool(kind, channels, first_patch, views)

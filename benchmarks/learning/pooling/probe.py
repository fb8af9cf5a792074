"""Linear heads on pooled frozen patches, all trained alike, one city held out at a time.

References:
    He et al. (2021), Masked autoencoders, arXiv 2111.06377, appendix A (a batch norm without weights before the layer).
    Psomas et al. (2025), Attention, please! Revisiting attentive probing, arXiv 2506.10178 (learned queries).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Pooling = Literal["cls_mean", "mean", "largest", "attention"]
# Every channel over the rows of a batch, as linear probes do, or every row over its channels, as the heads do.
Norm = Literal["channel", "row"]
POOLINGS: tuple[Pooling, ...] = ("cls_mean", "mean", "largest", "attention")
QUERIES = 4
STEPS, BATCH, RATE, DECAY = 150, 96, 3e-3, 0.02
NEWEST, EPSILON = 0.1, 1e-6


@dataclass(frozen=True)
class Inputs:
    """What a head is trained on.

    Attributes:
        pooled: features `(N, W)` where pooling has nothing to learn; None for attention.
        patches: bf16 `(N, P, D)` for attention, one tensor a block.
        width: W, or of all queries of all blocks.
    """

    pooled: Tensor | None
    patches: tuple[Tensor, ...]
    width: int


def inputs_of(pooling: Pooling, states: Sequence[Tensor]) -> Inputs:
    """Pool what can be pooled beforehand.

    Args:
        pooling: its name.
        states: tokens `(N, 1 + P, D)` of each block that is pooled, CLS first.
    """
    if pooling == "attention":
        patches = tuple(state[:, 1:] for state in states)
        return Inputs(None, patches, QUERIES * sum(state.shape[2] for state in patches))
    found = torch.cat([_pool(pooling, state) for state in states], dim=1)
    return Inputs(found, (), found.shape[1])


def _pool(pooling: Pooling, state: Tensor) -> Tensor:
    if pooling == "largest":
        return state[:, 1:].amax(1).float()
    mean = state[:, 1:].mean(1, dtype=torch.float32)
    return mean if pooling == "mean" else torch.cat([state[:, 0].float(), mean], dim=1)


class Heads(torch.nn.Module):
    """M heads side by side, each as if it were alone: queries, a norm without weights, and one linear layer.

    Args:
        inputs: shapes.
        norm: of what the linear layer sees.
        seeds: of the first weights, `(M,)`.
    """

    def __init__(self, inputs: Inputs, norm: Norm, seeds: Sequence[int]) -> None:
        super().__init__()
        drawn = [torch.Generator().manual_seed(seed) for seed in seeds]

        def weights(*shape: int) -> torch.nn.Parameter:
            """Normal numbers of the size that a linear layer begins with."""
            first = torch.stack([torch.randn(*shape, generator=each) for each in drawn])
            return torch.nn.Parameter(first * shape[-1] ** -0.5)

        self.queries = torch.nn.ParameterList([weights(QUERIES, part.shape[2]) for part in inputs.patches])
        self.weight = weights(inputs.width)
        self.bias = torch.nn.Parameter(torch.zeros(len(seeds)))
        self._norm = norm
        self._mean, self._var = torch.zeros(len(seeds), inputs.width), torch.ones(len(seeds), inputs.width)
        self._batches = 0

    def forward(self, inputs: Inputs, rows: Tensor, trains: Tensor | None = None) -> Tensor:
        """Log-odds `(M, len(rows))`.

        Args:
            inputs: of all rows.
            rows: numbers of some.
            trains: which of them train each head, `(M, len(rows))`; None while nothing is trained.
        """
        if inputs.pooled is not None:
            features = inputs.pooled[rows][None].expand(len(self.bias), -1, -1)
        else:
            each = zip(inputs.patches, self.queries, strict=True)
            features = torch.cat([_attended(part[rows].float(), queries) for part, queries in each], dim=2)
        return torch.einsum("mnw,mw->mn", self._normed(features, trains), self.weight) + self.bias[:, None]

    def _normed(self, features: Tensor, trains: Tensor | None) -> Tensor:
        if self._norm == "row":
            return F.layer_norm(features, features.shape[-1:])
        if trains is None:
            mean, var = self._mean, self._var
        else:
            shares = (trains / trains.sum(1, keepdim=True))[..., None]
            mean = (shares * features).sum(1)
            var = (shares * (features - mean[:, None]).square()).sum(1)
            # The mean of the last ones, as queries move.
            self._batches += 1
            step = max(1 / self._batches, NEWEST)
            self._mean = self._mean.lerp(mean.detach(), step)
            self._var = self._var.lerp(var.detach(), step)
        return (features - mean[:, None]) * (var[:, None] + EPSILON).rsqrt()


def _attended(patches: Tensor, queries: Tensor) -> Tensor:
    """Patches `(n, P, D)` weighed by queries `(M, Q, D)`, `(M, n, Q D)`."""
    heads = len(queries)
    shares = torch.softmax(patches @ queries.flatten(0, 1).T, dim=1)
    found = (shares.transpose(1, 2) @ patches).reshape(len(patches), heads, -1)
    return found.transpose(0, 1)


def held_out_scores(
    inputs: Inputs, norm: Norm, labels: NDArray[np.int8], cities: NDArray[np.str_], seeds: Sequence[int]
) -> NDArray[np.float32]:
    """Log-odds of each row of a city by heads that saw nothing of it, mean over seeds, `(N,)`; NaN for other rows.

    The heads of all cities take their steps together, on batches with as many rows of each class, in which the rows of
    a head's own city have no weight.

    Args:
        inputs: of N rows.
        norm: of what the linear layers see.
        labels: 0 or 1, `(N,)`.
        cities: of each row, empty for rows that only train, `(N,)`.
        seeds: of the heads.
    """
    names = sorted({*cities.tolist()} - {""})
    heads = Heads(inputs, norm, [seed for _ in names for seed in seeds])
    optimiser = torch.optim.AdamW(heads.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        rows = np.concatenate([rng.choice(np.flatnonzero(labels == label), BATCH // 2) for label in (0, 1)])
        each_city = [torch.from_numpy(_weights(labels[rows], cities[rows] != name)) for name in names]
        weights = torch.stack(each_city).repeat_interleave(len(seeds), 0)
        wanted = torch.from_numpy(labels[rows]).float().expand(len(heads.bias), -1)
        said = heads(inputs, torch.from_numpy(rows), (weights > 0).float())
        each = F.binary_cross_entropy_with_logits(said, wanted, reduction="none")
        # A sum over heads, so that each learns as if it were alone.
        loss = (each * weights).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    scores = np.full(len(labels), np.nan, np.float32)
    for number, name in enumerate(names):
        held = np.flatnonzero(cities == name)
        with torch.no_grad():
            answers = heads(inputs, torch.from_numpy(held))
        scores[held] = answers[number * len(seeds) : (number + 1) * len(seeds)].mean(0).numpy()
    return scores


def _weights(labels: NDArray[np.int8], trains: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Weights of a batch that give each class one half, float32 `(n,)`."""
    weights = np.zeros(len(labels), np.float32)
    for label in (0, 1):
        here = trains & (labels == label)
        weights[here] = 0.5 / max(1, int(here.sum()))
    return weights

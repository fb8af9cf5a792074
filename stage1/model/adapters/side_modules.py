"""Adapters that stay beside the weights: prompts in each block, and a bottleneck parallel to each MLP.

References:
    Jia et al. (2022), Visual prompt tuning, arXiv 2203.12119, section 3.2 (VPT-deep).
    Chen et al. (2022), AdaptFormer, arXiv 2205.13535, equation 3 (a parallel bottleneck with a fixed scale).
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PARALLEL_SCALE = 0.1
MASK = "attention_mask"


class PromptedBlock(nn.Module):
    """A transformer block that sees extra tokens of its own; they come after the first token and do not leave it.

    Rotary positions are given to the last tokens of a sequence only, so prompts among the first have none; positions
    that are added to the tokens are added before the first block, and prompts have none of these either. A mask of
    attention, which some families make for every image and the exporter always, has the shape of the tokens alone; it
    hides nothing of an image, so the block gets none.

    Args:
        block: maps tokens `(N, T, D)`, and whatever its family calls it with besides, to tokens of the same shape.
        count: number of prompts.
        width: D.
    """

    def __init__(self, block: nn.Module, count: int, width: int) -> None:
        super().__init__()
        self.block = block
        bound = math.sqrt(6 / (count + width))
        self.prompts = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
        self._names = [*inspect.signature(block.forward).parameters][1:]

    def forward(self, hidden: Tensor, *given: Any, **named: Any) -> Tensor:  # noqa: ANN401  the block's own
        """The block's output for the tokens that came in, `(N, T, D)`."""
        # Not `len(hidden)`: the exporter would take it for a constant.
        prompts = self.prompts.to(hidden.dtype).expand(hidden.shape[0], -1, -1)
        joined = torch.cat([hidden[:, :1], prompts, hidden[:, 1:]], dim=1)
        passed = named | dict(zip(self._names, given, strict=False))
        out = self.block(joined, **{name: None if name == MASK else value for name, value in passed.items()})
        return torch.cat([out[:, :1], out[:, 1 + self.prompts.shape[0] :]], dim=1)


class ParallelMlp(nn.Module):
    """An MLP with a narrow one beside it, whose output is added; it starts as the MLP alone.

    Args:
        mlp: maps `(..., D)` to `(..., D)`.
        bottleneck: width of the narrow one.
        width: D.
    """

    def __init__(self, mlp: nn.Module, bottleneck: int, width: int) -> None:
        super().__init__()
        self.mlp = mlp
        self.down = nn.Linear(width, bottleneck)
        self.up = nn.Linear(bottleneck, width)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        """Both together, `(..., D)`."""
        out: Tensor = self.mlp(hidden) + PARALLEL_SCALE * self.up(F.relu(self.down(hidden)))
        return out

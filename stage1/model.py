"""Stage-1 as a torch module: a vision transformer, a class head and a selection head.

Only training and export import this module; a live miner runs the compiled graph.

References:
    Simeoni et al. (2025), DINOv3, arXiv 2508.10104 (the backbone).
    Geifman and El-Yaniv (2019), SelectiveNet, arXiv 1901.09192 (a selection head beside the class head).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Stage1Net(nn.Module):
    """uint8 images to logits and a selection score; normalisation is part of the module, so of every engine.

    Args:
        backbone: maps pixel values `(N, 3, H, W)` to an output with `last_hidden_state (N, 1 + R + P, D)`: the CLS
            token, R register tokens, P patch tokens.
        hidden: D.
        registers: R.
        head_hidden: width of the hidden layer of each head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, *, hidden: int, registers: int, head_hidden: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.first_patch = 1 + registers
        self.class_head = _head(2 * hidden, head_hidden, 2)
        self.select_head = _head(2 * hidden, head_hidden, 1)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255, persistent=False)

    def features(self, image: Tensor) -> Tensor:
        """CLS token and mean patch token, `(N, 2 D)`, of uint8 images `(N, 3, H, W)`."""
        pixels = (image.float() - self.mean) / self.std
        tokens = self.backbone(pixels).last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, self.first_patch :].mean(1)], dim=1)

    def heads(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, 2)` and selection score `(N,)` of features `(N, 2 D)`."""
        return self.class_head(features), self.select_head(features).squeeze(1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(N, 2)` and selection score `(N,)` of uint8 images `(N, 3, H, W)`."""
        return self.heads(self.features(image))


def _head(width: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))

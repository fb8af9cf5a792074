"""Stage-1 as a torch module: a vision backbone, a class head, a selection head and named heads.

Only training and export import this module; a live miner runs the compiled graph. Attention is plain multi-head
attention, as the backbone has it: grouped-query attention would need other pretrained weights and saves memory traffic
of a key-value cache, which an encoder does not have.

References:
    Simeoni et al. (2025), DINOv3, arXiv 2508.10104 (the backbone).
    Geifman and El-Yaniv (2019), SelectiveNet, arXiv 1901.09192 (a selection head beside the class head).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1.model import trunk
from stage1.preprocess import Shape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Views = Literal["whole", "whole_and_quadrants"]
STEM_WIDTH = 32


@dataclass(frozen=True)
class Layout:
    """What a backbone's last hidden state is.

    Attributes:
        width: channels D.
        first_patch: index of the first patch token after the CLS token and registers; 0 if there is no CLS token, as in
            a grid `(N, D, H, W)`. Then the largest value of each channel stands in for it.
        patch_px: side of the square that a patch or a cell of the grid stands for.
    """

    width: int
    first_patch: int
    patch_px: int = 16


@dataclass(frozen=True)
class NetOutputs:
    """What the heads say of N images.

    Attributes:
        logits: `(N, 2)`; column 1 is roadwork.
        select_score: `(N,)`; larger means safer to trust.
        named: logits `(N, K)` of each named head; class 0 means no roadwork.
    """

    logits: Tensor
    select_score: Tensor
    named: dict[str, Tensor]

    def float(self) -> NetOutputs:
        """The same in fp32."""
        named = {name: logits.float() for name, logits in self.named.items()}
        return NetOutputs(self.logits.float(), self.select_score.float(), named)


class Stage1Net(nn.Module):
    """uint8 images to outputs; normalisation and the cutting of views are part of the module, so of every engine.

    Args:
        backbone: maps pixel values `(N, 3, H, W)` to an output with `last_hidden_state`: tokens `(N, T, D)` or a grid
            `(N, D, H, W)`.
        layout: of that state.
        shape: height and width of the images, px.
        head_hidden: width of the hidden layer of each head.
        views: `whole` sees the image as it is; `whole_and_quadrants` sees it at half its size and its four quarters at
            full size, so that small things count, and is as expensive as five images of half the side.
        named: classes of each named head.
        multi_scale: patch embeddings half and twice as coarse as the backbone's, trained from scratch on the whole
            image and pooled over it, go into the heads beside the backbone's features.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        layout: Layout,
        *,
        shape: Shape,
        head_hidden: int,
        views: Views = "whole",
        named: Mapping[str, int] | None = None,
        multi_scale: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.views = views
        self.view_shape = shape if views == "whole" else (shape[0] // 2, shape[1] // 2)
        self.stems = stems(layout.patch_px) if multi_scale else nn.ModuleList()
        self.width = 2 * layout.width * (1 if views == "whole" else 2) + 2 * STEM_WIDTH * len(self.stems)
        self.class_head = head(self.width, head_hidden, 2)
        self.select_head = head(self.width, head_hidden, 1)
        self.named_heads = nn.ModuleDict({k: head(self.width, head_hidden, n) for k, n in (named or {}).items()})
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1) * 255, persistent=False)

    def train(self, mode: bool = True) -> Self:
        """Training mode; batch norms keep the statistics of pretraining, because batches here are small and biased."""
        super().train(mode)
        for module in self.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001  the only name for all of them
                module.eval()
        return self

    def features(self, image: Tensor) -> Tensor:
        """Features `(N, width)` of uint8 images `(N, 3, H, W)`."""
        found = self._pooled(self.backbone(self._pixels(image)).last_hidden_state)
        return torch.cat([found, *pooled(self.stems, (image.float() - self.mean) / self.std)], dim=1)

    def prefix(self, image: Tensor, cut: int) -> Tensor:
        """What the first `cut` blocks make of uint8 images `(N, 3, H, W)`; `(N, V, ...)` with V views.

        With all blocks before the cut it is the features `(N, width)`. Not for `multi_scale`, which needs the pixels.
        """
        if cut == len(trunk.blocks_of(self.backbone)):
            return self.features(image)
        hidden = trunk.before(self.backbone, self._pixels(image), cut)
        return hidden.reshape(len(image), -1, *hidden.shape[1:])

    def rest(self, state: Tensor, cut: int) -> Tensor:
        """Features `(N, width)` from what `prefix` returned."""
        if cut == len(trunk.blocks_of(self.backbone)):
            return state
        return self._pooled(trunk.after(self.backbone, state.flatten(0, 1), cut, self.view_shape))

    def outputs(self, features: Tensor) -> NetOutputs:
        """What the heads say of features `(N, width)`."""
        named = {name: module(features) for name, module in self.named_heads.items()}
        return NetOutputs(self.class_head(features), self.select_head(features).squeeze(1), named)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits `(N, 2)`, selection score `(N,)` and the logits of each named head, of uint8 images `(N, 3, H, W)`."""
        outputs = self.outputs(self.features(image))
        return outputs.logits, outputs.select_score, *outputs.named.values()

    def _pixels(self, image: Tensor) -> Tensor:
        """Normalised views `(N V, 3, h, w)`, those of an image one after another."""
        pixels = (image.float() - self.mean) / self.std
        if self.views == "whole":
            return pixels
        height, width = self.view_shape
        corners = [pixels[..., y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
        return torch.stack([F.avg_pool2d(pixels, 2), *corners], dim=1).flatten(0, 1)

    def _pooled(self, hidden: Tensor) -> Tensor:
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        patches = hidden[:, self.layout.first_patch :]
        summary = hidden[:, 0] if self.layout.first_patch else patches.amax(1)
        found = torch.cat([summary, patches.mean(1)], dim=1)
        if self.views == "whole":
            return found
        views = found.reshape(-1, 5, found.shape[1])
        return torch.cat([views[:, 0], views[:, 1:].amax(1)], dim=1)


def stems(patch_px: int) -> nn.ModuleList:
    """Patch embeddings half and twice as coarse as patches of this side, `(N, 3, H, W)` to `(N, STEM_WIDTH, H, W)`."""
    sides = (max(1, patch_px // 2), 2 * patch_px)
    return nn.ModuleList(nn.Sequential(nn.Conv2d(3, STEM_WIDTH, side, stride=side), nn.GELU()) for side in sides)


def pooled(embeddings: nn.ModuleList, pixels: Tensor) -> list[Tensor]:
    """Mean and largest value of each channel of each embedding, `(N, STEM_WIDTH)` each."""
    grids = [embedding(pixels).flatten(2) for embedding in embeddings]
    return [pool for grid in grids for pool in (grid.mean(2), grid.amax(2))]


def head(width: int, hidden: int, outputs: int) -> nn.Sequential:
    """A head: normalisation and one hidden layer, `(N, width)` to `(N, outputs)`."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))

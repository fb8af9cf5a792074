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
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stage1.model import trunk
from stage1.model.pooling import AttentionPool, pool_of
from stage1.model.settings import Pooling
from stage1.preprocess import Shape

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
STEM_WIDTH = 32


@dataclass(frozen=True)
class Layout:
    """What a backbone's last hidden state is.

    Attributes:
        width: channels D.
        first_patch: index of the first patch token after the CLS token and registers; 0 if there is no CLS token, as in
            a grid `(N, D, H, W)`.
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

    The pool of attention belongs to the features, not to the heads: supervised training trains it, and what trains
    heads on features that were computed once takes it as it is.

    Args:
        backbone: maps pixel values `(N, 3, h, w)` to an output with `last_hidden_state`: tokens `(N, T, D)` or a grid
            `(N, D, H, W)`.
        layout: of that state.
        shape: height and width of the images, px.
        head_hidden: width of the hidden layer of each head; None for linear heads.
        tiles: rows and columns that the image is cut into. The backbone sees each tile at full size and the whole image
            shrunk to the size of a tile, all in one batch, so that small things count; attention looks at the patches
            of all of them together. None shows the image as it is.
        pooling: see `stage1.model.settings.ModelSettings`.
        queries: of attention.
        pooled_blocks: numbers of blocks, from 1, whose patches are pooled beside those of the last hidden state.
        named: classes of each named head.
        multi_scale: patch embeddings half and twice as coarse as the backbone's, trained from scratch on the whole
            image and pooled over it, go into the heads beside the backbone's features.

    Raises:
        ValueError: the image cannot be cut into such tiles.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        layout: Layout,
        *,
        shape: Shape,
        head_hidden: int | None,
        tiles: tuple[int, int] | None = None,
        pooling: Pooling = "attention",
        queries: int = 4,
        pooled_blocks: tuple[int, ...] = (),
        named: Mapping[str, int] | None = None,
        multi_scale: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layout = layout
        self.shape = shape
        self.tiles = tiles
        self.view_shape = view_shape(shape, tiles)
        self.pooling = pooling
        self.pooled_blocks = pooled_blocks
        views = 1 if tiles is None else 1 + tiles[0] * tiles[1]
        channels = layout.width * (1 + len(pooled_blocks))
        self.pool = pool_of(pooling, channels, layout.first_patch, views=views, queries=queries)
        self.stems = stems(layout.patch_px) if multi_scale else nn.ModuleList()
        self.width = self.pool.width + 2 * STEM_WIDTH * len(self.stems)
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
        pixels = self._normal(image)
        return torch.cat([self.pool(self._tokens(pixels)), *pooled(self.stems, pixels)], dim=1)

    def prefix(self, image: Tensor, cut: int) -> Tensor:
        """What the first `cut` blocks make of uint8 images `(N, 3, H, W)`; `(N, V, ...)` with V views.

        With all blocks before the cut it is the features `(N, width)`, or the tokens `(N, V, T, C)` for a pool that
        learns. No pooled block may lie before any other cut. Not for `multi_scale`, which needs the pixels.
        """
        pixels = self._normal(image)
        if cut == len(trunk.blocks_of(self.backbone)):
            tokens = self._tokens(pixels)
            return tokens if isinstance(self.pool, AttentionPool) else self.pool(tokens)
        hidden = trunk.before(self.backbone, self._views(pixels), cut)
        return hidden.reshape(len(image), -1, *hidden.shape[1:])

    def rest(self, state: Tensor, cut: int) -> Tensor:
        """Features `(N, width)` from what `prefix` returned."""
        if cut < len(trunk.blocks_of(self.backbone)):
            found = trunk.after(self.backbone, state.flatten(0, 1), cut, self.view_shape, self.pooled_blocks)
            features: Tensor = self.pool(side_by_side(found, len(state)))
            return features
        return self.pool(state) if isinstance(self.pool, AttentionPool) else state

    def attention(self, image: Tensor) -> Tensor:
        """How much each query takes of each patch of uint8 images `(N, 3, H, W)`; `(N, Q, V, rows, columns)`.

        The views are the image, or the whole image and its tiles row by row; all weights of a query sum to 1.

        Raises:
            TypeError: the pool is not one of attention.
        """
        if not isinstance(self.pool, AttentionPool):
            raise TypeError(f"pooling by {self.pooling} does not look anywhere: only attention has weights")
        tokens = self._tokens(self._normal(image))
        images, views = tokens.shape[:2]
        weights = self.pool.weights(tokens).reshape(images, len(self.pool.queries), views, -1)
        rows, columns = (side // self.layout.patch_px for side in self.view_shape)
        # Some convolutional networks put a summary before their grid.
        return weights[..., -rows * columns :].reshape(*weights.shape[:3], rows, columns)

    def outputs(self, features: Tensor) -> NetOutputs:
        """What the heads say of features `(N, width)`."""
        named = {name: module(features) for name, module in self.named_heads.items()}
        return NetOutputs(self.class_head(features), self.select_head(features).squeeze(1), named)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Logits `(N, 2)`, selection score `(N,)` and the logits of each named head, of uint8 images `(N, 3, H, W)`."""
        outputs = self.outputs(self.features(image))
        return outputs.logits, outputs.select_score, *outputs.named.values()

    def _normal(self, image: Tensor) -> Tensor:
        return (image.float() - self.mean) / self.std

    def _tokens(self, pixels: Tensor) -> Tensor:
        """Tokens `(N, V, T, C)` of normalised images."""
        return side_by_side(trunk.states(self.backbone, self._views(pixels), self.pooled_blocks), pixels.shape[0])

    def _views(self, pixels: Tensor) -> Tensor:
        """Views `(N V, 3, h, w)` of normalised images, those of an image one after another: the whole, the tiles."""
        if self.tiles is None:
            return pixels
        height, width = self.view_shape
        rows, columns = self.tiles
        parts = [
            pixels[..., row * height : (row + 1) * height, column * width : (column + 1) * width]
            for row in range(rows)
            for column in range(columns)
        ]
        return torch.stack([F.avg_pool2d(pixels, self.tiles), *parts], dim=1).flatten(0, 1)


def view_shape(shape: Shape, tiles: tuple[int, int] | None) -> Shape:
    """Height and width of what the backbone sees of images of a shape.

    Raises:
        ValueError: the image cannot be cut into such tiles.
    """
    rows, columns = tiles or (1, 1)
    if shape[0] % rows or shape[1] % columns:
        raise ValueError(f"an image of {shape[0]} x {shape[1]} px cannot be cut into {rows} x {columns} equal tiles")
    return shape[0] // rows, shape[1] // columns


def side_by_side(found: list[Tensor], images: int) -> Tensor:
    """States of the views of N images as tokens `(N, V, T, C)`, the channels of several blocks side by side.

    Args:
        found: tokens `(N V, T, D)` each, or one grid `(N V, D, H, W)`.
        images: N.
    """
    tokens = [hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden for hidden in found]
    joined = tokens[0] if len(tokens) == 1 else torch.cat([each.to(tokens[-1].dtype) for each in tokens], dim=2)
    return joined.reshape(images, -1, *joined.shape[1:])


def stems(patch_px: int) -> nn.ModuleList:
    """Patch embeddings half and twice as coarse as patches of this side, `(N, 3, H, W)` to `(N, STEM_WIDTH, h, w)`."""
    sides = (max(1, patch_px // 2), 2 * patch_px)
    return nn.ModuleList(nn.Sequential(nn.Conv2d(3, STEM_WIDTH, side, stride=side), nn.GELU()) for side in sides)


def pooled(embeddings: nn.ModuleList, pixels: Tensor) -> list[Tensor]:
    """Mean and largest value of each channel of each embedding, `(N, STEM_WIDTH)` each."""
    grids = [embedding(pixels).flatten(2) for embedding in embeddings]
    return [pool for grid in grids for pool in (grid.mean(2), grid.amax(2))]


def head(width: int, hidden: int | None, outputs: int) -> nn.Sequential:
    """A head: normalisation and one hidden layer, or one linear layer without any; `(N, width)` to `(N, outputs)`."""
    if hidden is None:
        return nn.Sequential(nn.Linear(width, outputs))
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, outputs))

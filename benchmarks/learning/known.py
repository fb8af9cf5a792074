"""Features that were computed before: a network whose images are numbers of rows."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.learning.arena import Arena, Rows
from benchmarks.learning.scale import HEAD_HIDDEN
from offline.learning.predict import ImageSet
from stage1.model.net import STEM_WIDTH, Layout, Stage1Net, pooled, stems
from stage1.preprocess import Pixels


class KnownFeatures(Stage1Net):
    """Heads over a table of features, so that what trains heads alone does not run the backbone again.

    Args:
        table: features of all rows, `(N, width)`.
        size_px: side of the images that they are of.
        more: width of what a subclass adds to them.
    """

    table: Tensor

    def __init__(self, table: Tensor, size_px: int, *, more: int = 0) -> None:
        width = (table.shape[1] + more) // 2
        super().__init__(nn.Identity(), Layout(width, first_patch=0), shape=(size_px, size_px), head_hidden=HEAD_HIDDEN)
        self.register_buffer("table", table, persistent=False)

    def features(self, image: Tensor) -> Tensor:
        """Features `(n, width)` of rows by their numbers, `(n,)`."""
        return self.table[image.long()]


class MultiScale(KnownFeatures):
    """Heads that also see patch embeddings half and twice as coarse as the backbone's, pooled over the image.

    Args:
        table: features of the backbone, `(N, width)`.
        images: uint8 `(N, 3, S, S)`, in the order of the table.
        patch_px: side of a patch of the backbone.
    """

    def __init__(self, table: Tensor, images: Pixels, patch_px: int) -> None:
        super().__init__(table, images.shape[-1], more=4 * STEM_WIDTH)
        self._images = images
        self.stems = stems(patch_px)

    def features(self, image: Tensor) -> Tensor:
        """Features `(n, width)` of rows by their numbers, `(n,)`."""
        pixels = (torch.from_numpy(self._images[image.numpy()]).float() - self.mean) / self.std
        return torch.cat([super().features(image), *pooled(self.stems, pixels)], dim=1)


def row_set(arena: Arena, rows: Rows) -> ImageSet:
    """Some of the rows; their images are their numbers."""
    return ImageSet(cast("Pixels", rows), arena.part(rows))


def spread(rows: Rows, features: NDArray[np.float32], count: int) -> Tensor:
    """The table of N rows that has these features in these rows and zeros in the others."""
    table = torch.zeros(count, features.shape[1])
    table[torch.from_numpy(rows)] = torch.from_numpy(features)
    return table

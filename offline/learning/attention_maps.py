"""Where the network looked: how its queries share their weight among the places of an image."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from offline.learning.predict import EVAL_BATCH, device_of
from stage1.model.net import Stage1Net
from stage1.preprocess import Pixels

Maps = NDArray[np.float32]


@torch.no_grad()
def attention_maps(net: Stage1Net, images: Pixels) -> Maps:
    """Share of the weight of all queries on each place of an image, `(N, rows, columns)`; a map sums to 1.

    A place is a patch, of the tiles where the network sees tiles. What falls on a patch of the whole image is spread
    evenly over the places that it covers.

    Args:
        net: with a pool of attention, merged or not.
        images: uint8 `(N, 3, H, W)`.

    Raises:
        TypeError: the pool is not one of attention.
    """
    net.eval()
    device = device_of(net)
    parts = []
    for start in range(0, len(images), EVAL_BATCH):
        weights = net.attention(torch.from_numpy(images[start : start + EVAL_BATCH]).to(device))
        parts.append(weights.mean(1).float().cpu().numpy())
    found: Maps = np.concatenate(parts)
    return on_the_image(found, net.tiles)


def on_the_image(weights: Maps, tiles: tuple[int, int] | None) -> Maps:
    """Weights of the views of an image as one map of it.

    Args:
        weights: `(N, V, rows, columns)`; of one view, or of the whole image and its tiles row by row.
        tiles: rows R and columns C of tiles; None for none.

    Returns:
        `(N, rows, columns)`, or `(N, R rows, C columns)` with tiles.
    """
    if tiles is None:
        return weights[:, 0]
    down, across = tiles
    count, _, rows, columns = weights.shape
    whole = weights[:, 0].repeat(down, axis=1).repeat(across, axis=2) / np.float32(down * across)
    parts = weights[:, 1:].reshape(count, down, across, rows, columns).swapaxes(2, 3)
    found: Maps = whole + parts.reshape(count, down * rows, across * columns)
    return found

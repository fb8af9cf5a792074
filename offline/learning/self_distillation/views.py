"""Views for self-distillation: crops of every image's own, colours, and blocks of masked patches.

Everything is drawn on the CPU from the generator that is passed in, so that a run that resumes sees what it would have
seen, on whatever device it computes.

References:
    Caron et al. (2021), DINO, arXiv 2104.14294, appendix (multi-crop and colours).
    Bao et al. (2022), BEiT, arXiv 2106.08254, algorithm 1 (blocks of masked patches).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from offline.learning.self_distillation.pictures import Batch, Opened

ASPECT = 4 / 3
COLOURED, GREY, BLURRED, SOLARISED = 0.8, 0.2, 0.3, 0.2
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.4, 0.2
LUMA = (0.299, 0.587, 0.114)
SMALLEST_BLOCK, BLOCK_ASPECT = 4, 0.3
ATTEMPTS = 40


def random_view(
    images: Batch,
    shape: tuple[int, int],
    scale: tuple[float, float],
    generator: torch.Generator,
    *,
    solarise: bool = False,
) -> Tensor:
    """One view of each image: a crop, perhaps mirrored, in other colours, perhaps blurred.

    Args:
        images: N pictures to cut from, or uint8 `(N, 3, H, W)`.
        shape: height and width of the view, px.
        scale: smallest and largest share of the image's area in a crop.
        generator: on the CPU.
        solarise: whether some are solarised too.

    Returns:
        fp32 `(N, 3, *shape)`, in [0, 255].
    """
    boxes = crop_boxes(len(images), scale, generator)
    view = images.cut(boxes, shape) if isinstance(images, Opened) else _sampled(images, boxes, shape)
    return _coloured(view, generator, solarise=solarise)


def _sampled(images: Tensor, boxes: Tensor, shape: tuple[int, int]) -> Tensor:
    # A place in bf16 is only good to half a pixel in an image of 224 px.
    with torch.autocast(images.device.type, enabled=False):
        grid = F.affine_grid(boxes.to(images.device), [len(images), 3, *shape], align_corners=False)
    return F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)


def crop_boxes(count: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Boxes of random area, proportion and place inside the image, half of them mirrored, as affine maps `(N, 2, 3)`.

    Args:
        count: N.
        scale: smallest and largest share of the area.
        generator: on the CPU.
    """
    draws = torch.rand(5, count, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * draws[0]
    aspect = torch.exp(math.log(ASPECT) * (2 * draws[1] - 1))
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    across, down = (1 - width) * (2 * draws[2] - 1), (1 - height) * (2 * draws[3] - 1)
    zero = torch.zeros(count)
    mirrored = torch.where(draws[4] < 0.5, -width, width)
    return torch.stack([torch.stack([mirrored, zero, across], 1), torch.stack([zero, height, down], 1)], 1)


def _coloured(view: Tensor, generator: torch.Generator, *, solarise: bool) -> Tensor:
    draws = torch.rand(7, len(view), generator=generator).to(view.device).view(7, -1, 1, 1, 1)
    jittered = draws[0] < COLOURED
    gains = [
        torch.where(jittered, 1 + spread * (2 * drawn - 1), 1.0)
        for spread, drawn in zip((BRIGHTNESS, CONTRAST, SATURATION), draws[1:4], strict=True)
    ]
    view = (view * gains[0]).clamp(0, 255)
    luma = _luma(view)
    view = luma.mean((2, 3), keepdim=True) * (1 - gains[1]) + view * gains[1]
    luma = _luma(view)
    view = luma + torch.where(draws[4] < GREY, 0.0, gains[2]) * (view - luma)
    view = torch.where(draws[5] < BLURRED, F.avg_pool2d(F.pad(view, (1, 1, 1, 1), mode="replicate"), 3, 1), view)
    view = view.clamp(0, 255)
    if solarise:
        view = torch.where((draws[6] < SOLARISED) & (view > 128), 255 - view, view)
    return view


def _luma(view: Tensor) -> Tensor:
    return (view * torch.tensor(LUMA, device=view.device).view(1, 3, 1, 1)).sum(1, keepdim=True)


def block_masks(grid: tuple[int, int], wanted: NDArray[np.integer], draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Masks made of rectangles of random size, proportion and place, bool `(N, rows, columns)`, all at once.

    Each attempt adds a rectangle of some of the patches that are still wanted, unless there would be too many.

    Args:
        grid: rows and columns of patches.
        wanted: number of patches to mask in each, at least 1, `(N,)`; no more are, and nearly as many.
        draws: size, proportion, row and column of each attempt's rectangle, in [0, 1), `(attempts, 4, N)`.
    """
    rows, columns = grid
    down, across = np.arange(rows)[:, None], np.arange(columns)
    masks = np.zeros((len(wanted), rows, columns), np.bool_)
    open_ = np.arange(len(wanted))
    for drawn in draws:
        left = wanted[open_] - masks[open_].sum((1, 2))
        open_, left = open_[left > 0], left[left > 0]
        if not len(open_):
            break
        of_size, of_aspect, of_row, of_column = drawn[:, open_]
        area = np.minimum(SMALLEST_BLOCK, left) + of_size * np.maximum(0, left - SMALLEST_BLOCK)
        aspect = np.exp(math.log(BLOCK_ASPECT) * (1 - 2 * of_aspect))
        height = np.clip(np.rint(np.sqrt(area * aspect)), 1, rows)
        width = np.clip(np.rint(np.sqrt(area / aspect)), 1, columns)
        top, first = np.floor(of_row * (rows - height + 1)), np.floor(of_column * (columns - width + 1))
        top, height, first, width = (each[:, None, None] for each in (top, height, first, width))
        joined = masks[open_] | ((down >= top) & (down < top + height) & (across >= first) & (across < first + width))
        fits = joined.sum((1, 2)) <= wanted[open_]
        masks[open_[fits]] = joined[fits]
    return masks


def random_masks(
    count: int, grid: tuple[int, int], images: float, patches: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Masks for a batch, bool `(N, rows * columns)` on the CPU; at least one image has one.

    Args:
        count: N.
        grid: rows and columns of patches.
        images: share of the images of which patches are masked.
        patches: smallest and largest share of patches masked in one of them; spread evenly over the images.
        generator: on the CPU.
    """
    chosen = max(1, round(images * count))
    total = grid[0] * grid[1]
    wanted = np.maximum(1, np.rint(np.linspace(*patches, chosen) * total)).astype(np.int64)
    places = torch.randperm(count, generator=generator)[:chosen]
    draws = torch.rand(ATTEMPTS, 4, chosen, generator=generator).numpy().astype(np.float64)
    made = torch.from_numpy(block_masks(grid, wanted, draws)).flatten(1)
    # Where no rectangle was small enough.
    alone = torch.randint(total, (chosen, 1), generator=generator)
    made |= torch.zeros_like(made).scatter_(1, alone, True) & ~made.any(1, keepdim=True)
    masks = torch.zeros(count, total, dtype=torch.bool)
    masks[places] = made
    return masks

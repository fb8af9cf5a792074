"""Views for self-distillation: crops of every image's own, colours, and blocks of masked patches.

Everything is drawn on the CPU from the generator that is passed in, so that a run that resumes sees what it would have
seen, on whatever device it computes.

References:
    Caron et al. (2021), DINO, arXiv 2104.14294, appendix (multi-crop and colours).
    Bao et al. (2022), BEiT, arXiv 2106.08254, algorithm 1 (blocks of masked patches).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from offline.learning.self_distillation.pictures import Batch, Opened

ASPECT = 4 / 3
COLOURED, GREY, BLURRED, SOLARISED = 0.8, 0.2, 0.3, 0.2
BRIGHTNESS, CONTRAST, SATURATION = 0.4, 0.4, 0.2
LUMA = (0.299, 0.587, 0.114)
SMALLEST_BLOCK, BLOCK_ASPECT = 4, 0.3
ATTEMPTS = 10


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


def block_mask(grid: tuple[int, int], wanted: int, generator: torch.Generator) -> Tensor:
    """A mask made of rectangles of random size, proportion and place, bool `(rows, columns)`.

    Args:
        grid: rows and columns of patches.
        wanted: number of patches to mask, at least 1; no more are, and nearly as many.
        generator: on the CPU.
    """
    rows, columns = grid
    mask = torch.zeros(grid, dtype=torch.bool)
    for _ in range(ATTEMPTS * 4):
        left = wanted - int(mask.sum())
        if left <= 0:
            break
        draws = torch.rand(4, generator=generator).tolist()
        area = min(SMALLEST_BLOCK, left) + draws[0] * max(0, left - SMALLEST_BLOCK)
        aspect = math.exp(math.log(BLOCK_ASPECT) * (1 - 2 * draws[1]))
        height = min(rows, max(1, round(math.sqrt(area * aspect))))
        width = min(columns, max(1, round(math.sqrt(area / aspect))))
        top, first = int(draws[2] * (rows - height + 1)), int(draws[3] * (columns - width + 1))
        block = torch.zeros_like(mask)
        block[top : top + height, first : first + width] = True
        if int((mask | block).sum()) <= wanted:
            mask |= block
    if not mask.any():
        mask.view(-1)[int(torch.randint(mask.numel(), (1,), generator=generator))] = True
    return mask


def random_masks(
    count: int, grid: tuple[int, int], images: float, patches: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Masks for a batch, bool `(N, rows * columns)`; at least one image has one.

    Args:
        count: N.
        grid: rows and columns of patches.
        images: share of the images of which patches are masked.
        patches: smallest and largest share of patches masked in one of them; spread evenly over the images.
        generator: on the CPU.
    """
    chosen = max(1, round(images * count))
    shares = torch.linspace(*patches, chosen).tolist()
    total = grid[0] * grid[1]
    masks = torch.zeros(count, total, dtype=torch.bool)
    places = torch.randperm(count, generator=generator)[:chosen].tolist()
    for place, share in zip(places, shares, strict=True):
        masks[place] = block_mask(grid, max(1, round(share * total)), generator).view(-1)
    return masks

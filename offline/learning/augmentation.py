"""Augmentation of training images: what validators do to images, and the usual stack before that.

Everything is drawn from the generator that is passed in, so a training that resumes sees what it would have seen.

The training images are squares into which frames were squashed; what validators do, they do to the frames. So rotation,
crop and letterbox are worked out in the frame's own proportions and done in one resampling of the square.

References:
    Jiang, Li, Wu, Qian, Loy (2020), DeeperForensics-1.0, arXiv 2001.03024 (the distortions that validators took over).
    Cubuk et al. (2020), RandAugment, arXiv 1909.13719; Zhong et al. (2020), Random erasing, arXiv 1708.04896 (the
    usual stack).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from offline.data.dataset import Dataset, Row
from offline.learning.settings import Augmentation
from stage1.errors import ImageError
from stage1.image_file import frame_size

Augment = Callable[[Tensor, Tensor, torch.Generator], Tensor]

BRIGHTNESS = 0.2
# No frame is longer than so many times its other side; columns that say so do not mean the frame.
LONGEST = 100.0
# What validators did with a frame: sent it as it is, cut a square out of it, or put it into a square with black bars.
NATIVE, CUT, BARRED = range(3)
LEVELS = 4
ROTATION_DEGREES = 20.0
SMALLEST_CUT = 0.2
# Strengths of the distortions by their level, 0 for none.
CHROMA = (1.0, 0.4, 0.3)
CONTRAST = (1.0, 0.85, 0.725)
SHRINK = (1, 2, 3)
NOISE_VARIANCE = (0.0, 0.001, 0.002)
BLUR_TAPS = (1, 7, 9)
JPEG_QUALITY = 75
LUMA = (0.299, 0.587, 0.114)
# Columns: what one unit of Y, Cb and Cr adds to R, G and B (JFIF).
YCBCR_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def augmenter(kind: Augmentation) -> Augment:
    """The function that augments a batch.

    Args:
        kind: see `TrainSettings.augmentation`.

    Returns:
        Maps uint8 images `(N, 3, S, S)`, the proportions of their frames `(N,)` and a generator on the CPU to uint8
        images of the same shape.
    """
    known: dict[Augmentation, Augment] = {
        "none": lambda images, *_: images,
        "light": lambda images, _, generator: light(images, generator),
        "validators": as_validators_do,
        "strong": _strong,
    }
    return known[kind]


def _strong(images: Tensor, aspects: Tensor, generator: torch.Generator) -> Tensor:
    return as_validators_do(usual_stack(images, generator), aspects, generator)


def light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flip and brightness of a uint8 batch `(N, 3, H, W)`.

    Validators never flip vertically, so training does not either.
    """
    flip = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
    gain = 1 + BRIGHTNESS * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (images * gain.to(images.device)).clamp(0, 255).to(torch.uint8)


def usual_stack(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop, horizontal flip, colour, blur and erasing of a uint8 batch `(N, 3, S, S)`, on its own device."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    # kornia draws from torch's own generators; these are put back afterwards.
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        out: Tensor = _stack(images.shape[-1])(images.float() / 255)
    return (out * 255).round().clamp(0, 255).to(torch.uint8)


@cache
def _stack(size_px: int) -> nn.Module:
    import kornia.augmentation as K  # noqa: PLC0415  takes a while to import, and few runs want it

    return nn.Sequential(
        K.RandomResizedCrop((size_px, size_px), scale=(0.5, 1.0), ratio=(0.8, 1.25)),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.8),
        K.RandomGaussianBlur((5, 5), (0.1, 1.5), p=0.1),
        K.RandomErasing(scale=(0.02, 0.15), p=0.25),
    )


def as_validators_do(images: Tensor, aspects: Tensor, generator: torch.Generator) -> Tensor:
    """Send each image through one of the three ways in which validators prepared images, at a random level.

    Level 0 cuts or bars the frame; level 1 also rotates it and cuts a random square; levels 2 and 3 also distort
    colours, detail and sharpness. A frame that is sent as it is has no level. All of them end as a JPEG.

    Args:
        images: squashed frames, uint8 `(N, 3, S, S)`.
        aspects: width by height of the frames, `(N,)`, above 0.
        generator: on the CPU.

    Returns:
        uint8, the same shape and device.
    """
    count, aspects = len(images), aspects.float().cpu()
    way = torch.randint(3, (count,), generator=generator)
    level = torch.randint(LEVELS, (count,), generator=generator)
    theta = _geometry(way, level, aspects, generator)
    out = images.float()
    for chosen, finer in ((way == CUT, 1), (way == BARRED, 2)):
        rows = chosen.nonzero().squeeze(1).to(images.device)
        if len(rows):
            out[rows] = _resample(out[rows], theta[chosen].to(images.device), finer)
    return _as_jpeg(_distort(out, torch.where(way == NATIVE, 0, level), generator).to(torch.uint8))


def _geometry(way: Tensor, level: Tensor, aspects: Tensor, generator: torch.Generator) -> Tensor:
    """From the output square to the squashed frame, both [-1, 1] x [-1, 1], `(N, 2, 3)`.

    Worked out in half heights of the frame, in which it is [-aspect, aspect] x [-1, 1].
    """
    draws = torch.rand(4, len(way), generator=generator)
    moved = level > 0
    angle = torch.where(moved, math.radians(ROTATION_DEGREES) * (2 * draws[0] - 1), 0.0)
    short, long = aspects.clamp(max=1), aspects.clamp(min=1)
    # A square of more than this share of the area does not fit, and is drawn again.
    largest = (short / long).clamp(min=SMALLEST_CUT)
    side = (SMALLEST_CUT + (largest - SMALLEST_CUT) * draws[1]).mul(aspects).sqrt().minimum(short)
    cut = (way == CUT) & moved
    half = torch.where(cut, side, torch.where(way == CUT, short, long))
    across = torch.where(cut, (aspects - half) * (2 * draws[2] - 1), 0.0)
    down = torch.where(cut, (1 - half) * (2 * draws[3] - 1), 0.0)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * half, -sin * half, cos * across - sin * down], dim=1) / aspects[:, None],
        torch.stack([sin * half, cos * half, sin * across + cos * down], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _resample(images: Tensor, theta: Tensor, finer: int) -> Tensor:
    """Sample at so many times the resolution and average, so that what gets smaller does not alias; black outside."""
    count, channels, height, width = images.shape
    grid = F.affine_grid(theta, [count, channels, height * finer, width * finer], align_corners=False)
    sampled = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(sampled, finer).round() if finer > 1 else sampled.round()


def _distort(images: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """Colours, contrast and detail from level 2 on, noise and blur at level 3; in place."""
    strength = (torch.rand(5, len(level), generator=generator) * level.clamp(min=1)).long()
    strength[:, level < 2] = 0
    strength[3:, level < 3] = 0
    effects: tuple[tuple[Sequence[float], Callable[[Tensor, float], Tensor]], ...] = (
        (CHROMA, _greyer),
        (CONTRAST, lambda some, gain: some * gain),
        (SHRINK, _coarse),
        (NOISE_VARIANCE, lambda some, variance: some + _noise(some, variance, generator)),
        (BLUR_TAPS, _blurred),
    )
    for drawn, (table, effect) in zip(strength, effects, strict=True):
        for step, value in enumerate(table):
            rows = (drawn == step).nonzero().squeeze(1).to(images.device)
            if step and len(rows):
                images[rows] = effect(images[rows], value).clamp(0, 255).floor()
    return images


def _greyer(images: Tensor, chroma: float) -> Tensor:
    luma = (images * torch.tensor(LUMA, device=images.device).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return luma + chroma * (images - luma)


def _noise(images: Tensor, variance: float, generator: torch.Generator) -> Tensor:
    """Independent noise on Y, Cb and Cr."""
    drawn = torch.randn(images.shape, generator=generator).to(images.device)
    to_rgb = torch.tensor(YCBCR_TO_RGB, device=images.device)
    return torch.einsum("rc,nchw->nrhw", to_rgb, drawn) * 255 * math.sqrt(variance)


def _coarse(images: Tensor, factor: float) -> Tensor:
    """Down by a factor and up again, bilinear; validators call it JPEG compression."""
    height, width = images.shape[-2:]
    small = F.interpolate(
        images, (int(height // factor), int(width // factor)), mode="bilinear", align_corners=False
    ).round()
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False).round()


def _blurred(images: Tensor, taps: float) -> Tensor:
    """A Gaussian of so many taps and a standard deviation of a sixth of them."""
    reach = int(taps) // 2
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-0.5 * (offsets * 6 / taps) ** 2)
    kernel = kernel / kernel.sum()
    flat = F.pad(images.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view_as(images).round()


def _as_jpeg(images: Tensor) -> Tensor:
    """To JPEG and back, by the codec itself; simplejpeg encodes faster, but not to the same bytes as validators."""
    out = np.empty(images.shape, np.uint8)
    for index, image in enumerate(images.cpu().numpy()):
        buffer = io.BytesIO()
        Image.fromarray(image.transpose(1, 2, 0)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        out[index] = simplejpeg.decode_jpeg(buffer.getvalue(), colorspace="RGB").transpose(2, 0, 1)
    return torch.from_numpy(out).to(images.device)


def frame_aspects(data: Dataset) -> NDArray[np.float32]:
    """Width by height of each row's frame, `(N,)`, above 0.

    By its columns `width` and `height` if they are the sides of a frame, else by its file as it stands upright; 1 if
    the file cannot be read.
    """
    return np.asarray([_aspect(data, row) for row in data.rows], dtype=np.float32)


def _aspect(data: Dataset, row: Row) -> float:
    told = _side(row, "width") / _side(row, "height")
    if 1 / LONGEST <= told <= LONGEST:
        return told
    try:
        with (data.root / row.image).open("rb") as file:
            width, height = frame_size(file)
    except (OSError, ImageError):
        return 1.0
    return width / height


def _side(row: Row, column: str) -> float:
    """What a column says of a side in pixels, nan if that is no length."""
    try:
        length = float(row.about(column) or "")
    except ValueError:
        return math.nan
    return length if 0 < length < math.inf else math.nan

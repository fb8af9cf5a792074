"""Augmentation of training images: what is done to the squares that an engine sees.

What validators do to pictures is drawn from the files, before they become squares: see `offline.learning.
challenge_views`. Everything here is drawn from the generator that is passed in, so a training that resumes sees what it
would have seen.

References:
    Cubuk et al. (2020), RandAugment, arXiv 1909.13719; Zhong et al. (2020), Random erasing, arXiv 1708.04896 (the
    usual stack).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from offline.learning.settings import Augmentation

Augment = Callable[[Tensor, torch.Generator], Tensor]

BRIGHTNESS = 0.2
# These see what validators send, and not the images as they are.
SEE_CHALLENGES: frozenset[Augmentation] = frozenset({"validators", "strong"})


def augmenter(kind: Augmentation) -> Augment:
    """The function that augments a batch of squares.

    Args:
        kind: see `TrainSettings.augmentation`.

    Returns:
        Maps uint8 images `(N, 3, H, W)` and a generator on the CPU to uint8 images of the same shape.
    """
    known: dict[Augmentation, Augment] = {
        "none": unchanged,
        "light": light,
        "validators": unchanged,
        "strong": usual_stack,
    }
    return known[kind]


def unchanged(images: Tensor, _generator: torch.Generator) -> Tensor:
    """The images."""
    return images


def light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random horizontal flip and brightness of a uint8 batch `(N, 3, H, W)`.

    Validators never flip vertically, so training does not either.
    """
    flip = torch.rand(len(images), generator=generator).to(images.device) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(-1), images)
    gain = 1 + BRIGHTNESS * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
    return (images * gain.to(images.device)).clamp(0, 255).to(torch.uint8)


def usual_stack(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crop, horizontal flip, colour, blur and erasing of a uint8 batch `(N, 3, H, W)`, on its own device."""
    seed = int(torch.randint(2**31, (1,), generator=generator))
    # kornia draws from torch's own generators; these are put back afterwards.
    with torch.random.fork_rng([images.device] if images.is_cuda else []):
        torch.manual_seed(seed)
        out: Tensor = _stack(images.shape[-2:])(images.float() / 255)
    return (out * 255).round().clamp(0, 255).to(torch.uint8)


@cache
def _stack(shape: tuple[int, int]) -> nn.Module:
    import kornia.augmentation as K  # noqa: PLC0415  takes a while to import, and few runs want it

    return nn.Sequential(
        # Of the proportions of the input, which a crop is resized to.
        K.RandomResizedCrop(shape, scale=(0.5, 1.0), ratio=(0.8 * shape[1] / shape[0], 1.25 * shape[1] / shape[0])),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.3, 0.3, 0.3, 0.05, p=0.8),
        K.RandomGaussianBlur((5, 5), (0.1, 1.5), p=0.1),
        K.RandomErasing(scale=(0.02, 0.15), p=0.25),
    )

"""Augmentation of training images: what is done to the squares that an engine sees.

What validators do to pictures is drawn from the files, before they become squares: see `offline.learning.
challenge_views`. Every image is augmented by itself, from a generator of its own that is seeded by one number: so the
result is the same in however many threads it is made, and whichever images are beside it. Nothing is drawn from the
generators of numpy or torch that a process shares, which a thread beside the training would disturb.

References:
    Cubuk et al. (2020), RandAugment, arXiv 1909.13719; Zhong et al. (2020), Random erasing, arXiv 1708.04896 (the
    usual stack).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from engines.machine.cores import on_all_cores
from offline.data.pictures.pixel_store import Images
from offline.learning.challenge_views import Challenges
from offline.learning.settings import Augmentation
from stage1.preprocess import Pixels

Augment = Callable[[Pixels, np.random.Generator], Pixels]

BRIGHTNESS = 0.2
# Of the usual stack.
COLOURED, BLURRED, ERASED = 0.8, 0.1, 0.25
JITTER, HUE = 0.3, 0.05
BLUR_PX = 0.1, 1.5
ERASED_AREA, ERASED_ASPECT = (0.02, 0.15), 3.3
# Tells the generator of an augmentation from the one that the same number gives to a challenge.
STREAM = 1
# These see what validators send, and not the images as they are.
SEE_CHALLENGES: frozenset[Augmentation] = frozenset({"validators", "strong"})


def augmenter(kind: Augmentation) -> Augment:
    """The function that augments one image.

    Args:
        kind: see `TrainSettings.augmentation`.

    Returns:
        Maps a uint8 image `(3, H, W)` and a generator to a uint8 image of the same shape.
    """
    known: dict[Augmentation, Augment] = {
        "none": unchanged,
        "light": light,
        "validators": unchanged,
        "strong": usual_stack,
    }
    return known[kind]


def views(
    images: Images,
    challenges: Challenges | None,
    augment: Augment,
    rows: Sequence[int],
    seeds: Sequence[int],
) -> Pixels:
    """One augmented view of each of some rows, uint8 `(len(rows), 3, H, W)`, made on all cores.

    Args:
        images: uint8 `(N, 3, H, W)`.
        challenges: makes what is augmented, as validators send it; None augments the images.
        augment: see `augmenter`.
        rows: their numbers.
        seeds: of what is drawn for each.
    """
    shown = images[list(rows)] if challenges is None else challenges(rows, seeds)
    if augment is unchanged:
        return shown
    return np.stack(on_all_cores(lambda image, seed: augment(image, generator_of(seed)), shown, seeds))


def generator_of(seed: int) -> np.random.Generator:
    """What the augmentation of one view is drawn from."""
    return np.random.default_rng((STREAM, seed))


def unchanged(image: Pixels, _rng: np.random.Generator) -> Pixels:
    """The image."""
    return image


def light(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Random horizontal flip and brightness of a uint8 image `(3, H, W)`.

    Validators never flip vertically, so training does not either.
    """
    if rng.random() < 0.5:
        image = image[..., ::-1]
    gain = np.float32(1 + BRIGHTNESS * (2 * rng.random() - 1))
    return (image * gain).clip(0, 255).astype(np.uint8)


def usual_stack(image: Pixels, rng: np.random.Generator) -> Pixels:
    """Random horizontal flip, colour, blur and erasing of a uint8 image `(3, H, W)`.

    Crops are cut from the originals, before they lose detail: see `offline.learning.training_views`.
    """
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < COLOURED:
        picture = _coloured(picture, rng)
    if rng.random() < BLURRED:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR_PX)))
    pixels = np.asarray(picture).transpose(2, 0, 1)
    return _erased(pixels, rng) if rng.random() < ERASED else np.ascontiguousarray(pixels)


def _coloured(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue in a random order."""
    factors, hue = rng.uniform(1 - JITTER, 1 + JITTER, 3), rng.uniform(-HUE, HUE)
    steps: list[Callable[[Image.Image], Image.Image]] = [
        lambda shown: ImageEnhance.Brightness(shown).enhance(factors[0]),
        lambda shown: ImageEnhance.Contrast(shown).enhance(factors[1]),
        lambda shown: ImageEnhance.Color(shown).enhance(factors[2]),
        lambda shown: _turned(shown, hue),
    ]
    for number in rng.permutation(len(steps)).tolist():
        picture = steps[number](picture)
    return picture


def _turned(picture: Image.Image, share: float) -> Image.Image:
    """The picture with its hues moved on by a share of the circle."""
    hue, saturation, value = picture.convert("HSV").split()
    moved = np.asarray(hue) + np.uint8(round(share * 256) % 256)
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")


def _erased(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """The image with a black rectangle in it."""
    height, width = pixels.shape[1:]
    share, aspect = rng.uniform(*ERASED_AREA), math.exp(rng.uniform(-1, 1) * math.log(ERASED_ASPECT))
    across = min(width, max(1, round(width * math.sqrt(share * aspect))))
    down = min(height, max(1, round(height * math.sqrt(share / aspect))))
    left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
    pixels = pixels.copy()
    pixels[:, top : top + down, left : left + across] = 0
    return np.ascontiguousarray(pixels)

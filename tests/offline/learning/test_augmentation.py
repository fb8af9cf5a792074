"""Augmentation of the squares that an engine sees, drawn from one number for each image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.machine import cores
from offline.learning import augmentation
from offline.learning.augmentation import augmenter, generator_of, light, usual_stack, views
from stage1.preprocess import Pixels

KINDS: tuple[Any, ...] = ("light", "strong")


def scene(count: int, size: tuple[int, int] = (64, 64)) -> Pixels:
    """Smooth pictures, all different, of this height and width."""
    rng = np.random.default_rng(9)
    rough = rng.integers(40, 220, (count, 5, 5, 3), np.uint8)
    smooth = [np.asarray(Image.fromarray(each).resize(size[::-1], Image.Resampling.BILINEAR)) for each in rough]
    return np.stack(smooth).transpose(0, 3, 1, 2)


def seen(kind: Any, images: Pixels, first: int = 0) -> Pixels:
    return views(images, None, augmenter(kind), range(len(images)), range(first, first + len(images)))


@pytest.mark.parametrize("size", [(64, 64), (36, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_shape_and_type_and_changes_pixels(kind: Any, size: tuple[int, int]) -> None:
    images = scene(16, size)
    out = seen(kind, images)
    assert out.shape == images.shape
    assert out.dtype == np.uint8
    # One in fifteen is neither mirrored nor coloured, blurred or erased.
    assert (out != images).reshape(16, -1).any(1).sum() >= (12 if kind == "strong" else 15)
    assert np.array_equal(images, scene(16, size))


@pytest.mark.parametrize("kind", ["none", "validators"])
def test_what_is_shown_as_it_is_or_was_sent_is_not_changed_again(kind: Any) -> None:
    assert np.array_equal(seen(kind, scene(4)), scene(4))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_from_the_number_and_nothing_shared_is_drawn_from(kind: Any) -> None:
    """A thread that drew from torch's own generator would move the dropout of the training beside it."""
    images = scene(12)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = seen(kind, images, 3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002  the global generator is what must not matter
    assert np.array_equal(seen(kind, images, 3), first)
    assert not np.array_equal(seen(kind, images, 4), first)


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_does_not_matter_nor_what_is_beside_it(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, seeds = scene(12), list(range(70, 82))
    found = []
    for threads in (1, 3, 8):
        monkeypatch.setattr(cores, "usable_cores", lambda threads=threads: threads)
        found.append(views(images, None, augmenter(kind), range(12), seeds))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(views(images, None, augmenter(kind), [7, 2], [seeds[7], seeds[2]]), found[0][[7, 2]])


def test_light_only_mirrors_and_dims() -> None:
    images = scene(64)
    out = seen("light", images).astype(np.float64)
    ratios = [out / base for base in (images, images[..., ::-1])]
    spread = np.stack([ratio.max((1, 2, 3)) - ratio.min((1, 2, 3)) for ratio in ratios])
    # Truncation to whole values is all that is left after the right guess of the mirror.
    assert (spread.min(0) < 0.03).all()
    assert 0.3 < spread.argmin(0).mean() < 0.7
    gains = out.mean((1, 2, 3)) / images.mean((1, 2, 3))
    assert ((gains > 0.78) & (gains < 1.2)).all()
    assert gains.std() > 0.08


def test_the_usual_stack_varies_every_image_by_itself() -> None:
    images = np.repeat(scene(1), 16, axis=0)
    assert len({image.tobytes() for image in seen("strong", images)}) >= 12


def test_the_usual_stack_turns_and_erases_as_often_as_it_says_and_leaves_crops_to_the_originals() -> None:
    """Of a picture whose red is the column and whose green is the row; bounds of four standard deviations."""
    size = 64
    columns, rows = np.meshgrid(np.arange(size), np.arange(size))
    image = np.stack([columns * 3, rows * 3, np.full_like(rows, 60)]).astype(np.uint8)
    mirrored = erased = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "COLOURED", 0.0)
        patch.setattr(augmentation, "BLURRED", 0.0)
        for seed in range(400):
            out = usual_stack(image, generator_of(seed)).astype(int)
            black = (out == 0).all(0)
            erased += black.sum() > 8
            kept = [((out == side) | black).all() for side in (image, image[..., ::-1])]
            assert kept.count(True) == 1
            mirrored += kept[1]
    assert abs(mirrored / 400 - 0.5) < 0.1
    assert abs(erased / 400 - augmentation.ERASED) < 0.09


def test_colours_and_blur_keep_a_grey_picture_grey_and_the_brightness_near() -> None:
    grey = np.full((3, 32, 32), 120, np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(augmentation, "ERASED", 0.0)
        means = []
        for seed in range(60):
            out = usual_stack(grey, generator_of(seed)).astype(int)
            assert np.ptp(out) <= 2
            means.append(out.mean() / 120)
    assert min(means) > 0.69
    assert max(means) < 1.31


def test_light_is_the_same_for_an_image_that_only_reads() -> None:
    image = scene(1)[0]
    image.setflags(write=False)
    assert np.array_equal(light(image, generator_of(1)), light(image.copy(), generator_of(1)))

"""Augmentation of the squares that an engine sees, drawn from the generator that is passed in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from offline.learning.augmentation import augmenter, light, usual_stack

KINDS: tuple[Any, ...] = ("light", "strong")


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scene(count: int, size: int = 64) -> Tensor:
    """Smooth pictures, all different."""
    generator = seeded(9)
    rough = 40 + 180 * torch.rand((count, 3, 5, 5), generator=generator)
    smooth: Tensor = torch.nn.functional.interpolate(rough, (size, size), mode="bilinear")
    return smooth.to(torch.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_it_keeps_shape_and_type_and_changes_pixels(kind: Any) -> None:
    images = scene(16)
    out = augmenter(kind)(images, seeded())
    assert (out.shape, out.dtype) == (images.shape, torch.uint8)
    assert not torch.equal(out, images)
    assert torch.equal(images, scene(16))


@pytest.mark.parametrize("kind", ["none", "validators"])
def test_what_is_shown_as_it_is_or_was_sent_is_not_changed_again(kind: Any) -> None:
    assert torch.equal(augmenter(kind)(scene(4), seeded()), scene(4))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_comes_from_the_generator(kind: Any) -> None:
    images = scene(12)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = augmenter(kind)(images, seeded(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(5)  # noqa: NPY002  the global generator is what must not matter
    assert torch.equal(augmenter(kind)(images, seeded(3)), first)
    assert not torch.equal(augmenter(kind)(images, seeded(4)), first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_generator_that_is_put_back_draws_the_same_again(kind: Any) -> None:
    """So a training that resumes sees what it would have seen."""
    generator = seeded()
    augmenter(kind)(scene(4), generator)
    state = generator.get_state()
    expected = augmenter(kind)(scene(4), generator)
    generator.set_state(state)
    assert torch.equal(augmenter(kind)(scene(4), generator), expected)


def test_light_only_mirrors_and_dims() -> None:
    images = scene(64)
    out = light(images, seeded()).float()
    ratios = [out / base.float() for base in (images, images.flip(-1))]
    spread = torch.stack([ratio.amax((1, 2, 3)) - ratio.amin((1, 2, 3)) for ratio in ratios])
    # Truncation to whole values is all that is left after the right guess of the mirror.
    assert (spread.amin(0) < 0.03).all()
    mirrored = spread.argmin(0).float().mean()
    assert 0.3 < mirrored < 0.7
    gains = out.mean((1, 2, 3)) / images.float().mean((1, 2, 3))
    assert ((gains > 0.78) & (gains < 1.2)).all()
    assert gains.std() > 0.08


def test_the_usual_stack_varies_every_image_by_itself() -> None:
    images = scene(1).expand(16, -1, -1, -1).clone()
    out = usual_stack(images, seeded())
    assert len({bytes(image.numpy().tobytes()) for image in out}) == 16


def test_kornia_does_not_need_torchvision() -> None:
    """The build of torchvision on PyPI does not work beside a torch without CUDA."""
    script = (
        "import sys; sys.modules['torchvision'] = None; import torch; "
        "from offline.learning.augmentation import usual_stack; "
        "usual_stack(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), torch.Generator())"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=120)

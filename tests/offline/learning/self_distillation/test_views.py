"""Views for self-distillation: crops inside the image, masks in blocks, everything from one generator."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from offline.learning.self_distillation import views as ssl_views
from offline.learning.self_distillation.views import ATTEMPTS, block_masks, crop_boxes, random_masks, random_view


def generator(seed: int = 0) -> Generator:
    made = Generator()
    made.manual_seed(seed)
    return made


def images(count: int = 4, side: int = 24) -> Tensor:
    drawn: Tensor = torch.randint(0, 256, (count, 3, side, side), generator=generator(1), dtype=torch.uint8)
    return drawn


def test_crops_lie_inside_the_image_and_have_the_area_they_should() -> None:
    boxes = crop_boxes(4000, (0.3, 0.8), generator())
    width, height = boxes[:, 0, 0].abs(), boxes[:, 1, 1]
    reach_x, reach_y = width + boxes[:, 0, 2].abs(), height + boxes[:, 1, 2].abs()
    assert float(reach_x.max()) <= 1 + 1e-6
    assert float(reach_y.max()) <= 1 + 1e-6
    area = width * height
    assert float(area.max()) <= 0.8 + 1e-6
    assert float(area.mean()) == pytest.approx(0.55, abs=0.02)
    assert float((boxes[:, 0, 0] < 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((width / height).log().abs().max()) > 0.2


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours, no blur."""
    for name in ("COLOURED", "GREY", "BLURRED", "SOLARISED"):
        monkeypatch.setattr(ssl_views, name, -1.0)


def test_the_whole_image_in_its_own_size_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    plain(monkeypatch)
    monkeypatch.setattr(ssl_views, "ASPECT", 1.0)
    view = random_view(images(), (24, 24), (1.0, 1.0), generator())
    same = [bool(torch.allclose(view[n], images()[n].float(), atol=1e-3)) for n in range(4)]
    mirrored = [bool(torch.allclose(view[n], images()[n].float().flip(-1), atol=1e-3)) for n in range(4)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))


def test_every_image_has_a_crop_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plain(monkeypatch)
    view = random_view(images(1).repeat(4, 1, 1, 1), (16, 16), (0.2, 0.6), generator())
    assert all(not torch.allclose(view[0], view[n], atol=1.0) for n in range(1, 4))


def test_colours_change_and_stay_in_range() -> None:
    view = random_view(images(64), (24, 24), (0.5, 1.0), generator(), solarise=True)
    assert float(view.min()) >= 0
    assert float(view.max()) <= 255
    spread = (view.amax(1) - view.amin(1)).flatten(1).amax(1)
    assert 0.05 < float((spread < 1e-3).float().mean()) < 0.45


def test_the_same_generator_draws_the_same_view() -> None:
    assert torch.equal(*(random_view(images(), (16, 16), (0.3, 1.0), generator(7)) for _ in range(2)))
    assert not torch.equal(*(random_view(images(), (16, 16), (0.3, 1.0), generator(n)) for n in range(2)))


def test_a_view_has_the_shape_that_is_asked_for() -> None:
    assert random_view(images(), (16, 24), (0.3, 1.0), generator()).shape == (4, 3, 16, 24)


def drawn(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((ATTEMPTS, 4, count))


def one_mask(grid: tuple[int, int], wanted: int, draws: np.ndarray) -> np.ndarray:
    """Rectangles one after another, for one image: what `block_masks` does for all at once."""
    rows, columns = grid
    mask = np.zeros(grid, bool)
    for of_size, of_aspect, of_row, of_column in draws:
        left = wanted - int(mask.sum())
        if left <= 0:
            break
        area = min(4, left) + of_size * max(0, left - 4)
        aspect = math.exp(math.log(0.3) * (1 - 2 * of_aspect))
        height = min(rows, max(1, round(math.sqrt(area * aspect))))
        width = min(columns, max(1, round(math.sqrt(area / aspect))))
        top, first = int(of_row * (rows - height + 1)), int(of_column * (columns - width + 1))
        block = np.zeros_like(mask)
        block[top : top + height, first : first + width] = True
        if int((mask | block).sum()) <= wanted:
            mask |= block
    return mask


@pytest.mark.parametrize("grid", [(14, 14), (8, 14), (2, 2)])
def test_masks_of_many_images_are_those_of_each_by_itself(grid: tuple[int, int]) -> None:
    total = grid[0] * grid[1]
    wanted = np.random.default_rng(1).integers(1, total // 2 + 1, 60)
    draws = drawn(60)
    masks = block_masks(grid, wanted, draws)
    for number in range(60):
        assert np.array_equal(masks[number], one_mask(grid, int(wanted[number]), draws[:, :, number]))


@pytest.mark.parametrize("wanted", [1, 5, 20, 60])
def test_a_mask_has_nearly_as_many_patches_as_wanted_and_never_more(wanted: int) -> None:
    counts = block_masks((10, 12), np.full(50, wanted), drawn(50)).sum((1, 2))
    assert counts.max() <= wanted
    assert counts.mean() >= 0.85 * wanted


def test_masked_patches_come_in_blocks() -> None:
    """Nearly every masked patch has a masked neighbour; of patches masked at random a third would not."""
    masks = np.pad(block_masks((14, 14), np.full(30, 40), drawn(30)), ((0, 0), (1, 1), (1, 1))).astype(int)
    beside = masks[:, :-2, 1:-1] + masks[:, 2:, 1:-1] + masks[:, 1:-1, :-2] + masks[:, 1:-1, 2:]
    inside = masks[:, 1:-1, 1:-1] > 0
    assert (inside & (beside == 0)).sum() / inside.sum() < 0.1


def test_the_share_of_masked_images_and_patches_is_that_of_the_settings() -> None:
    masks = random_masks(40, (14, 14), 0.5, (0.1, 0.5), generator())
    some = masks.any(1)
    assert int(some.sum()) == 20
    shares = masks[some].float().mean(1)
    assert float(shares.mean()) == pytest.approx(0.3, abs=0.05)
    assert float(shares.max()) <= 0.5
    assert float(shares.min()) < 0.15


@pytest.mark.parametrize("grid", [(4, 4), (1, 1)])
def test_at_least_one_image_is_masked_and_has_a_masked_patch(grid: tuple[int, int]) -> None:
    for seed in range(20):
        masks = random_masks(3, grid, 0.0, (0.01, 0.01), generator(seed))
        assert masks.sum(1).sort().values.tolist() == [0, 0, 1]

"""Views for self-distillation: crops inside the image, masks in blocks, everything from one generator."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from offline.learning.self_distillation import views as ssl_views
from offline.learning.self_distillation.views import block_mask, crop_boxes, random_masks, random_view


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


@pytest.mark.parametrize("wanted", [1, 5, 20, 60])
def test_a_mask_has_nearly_as_many_patches_as_wanted_and_never_more(wanted: int) -> None:
    counts = [int(block_mask((10, 12), wanted, generator(n)).sum()) for n in range(50)]
    assert max(counts) <= wanted
    assert sum(counts) / 50 >= 0.85 * wanted


def test_masked_patches_come_in_blocks() -> None:
    """Nearly every masked patch has a masked neighbour; of patches masked at random a third would not."""
    lonely = total = 0
    for n in range(30):
        mask = torch.nn.functional.pad(block_mask((14, 14), 40, generator(n)).float(), (1, 1, 1, 1))
        beside = mask[:-2, 1:-1] + mask[2:, 1:-1] + mask[1:-1, :-2] + mask[1:-1, 2:]
        inside = mask[1:-1, 1:-1] > 0
        lonely += int((inside & (beside == 0)).sum())
        total += int(inside.sum())
    assert lonely / total < 0.1


def test_the_share_of_masked_images_and_patches_is_that_of_the_settings() -> None:
    masks = random_masks(40, (14, 14), 0.5, (0.1, 0.5), generator())
    some = masks.any(1)
    assert int(some.sum()) == 20
    shares = masks[some].float().mean(1)
    assert float(shares.mean()) == pytest.approx(0.3, abs=0.05)
    assert float(shares.max()) <= 0.5
    assert float(shares.min()) < 0.15


def test_at_least_one_image_is_masked() -> None:
    assert (
        int(random_masks(2, (4, 4), 0.0, (0.1, 0.1), generator()).sum()) == 2
        or int(random_masks(2, (4, 4), 0.0, (0.1, 0.1), generator()).any(1).sum()) == 1
    )

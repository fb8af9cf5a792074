"""Crops of self-distillation are cut from the picture itself, where and as large as the boxes say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from offline.data.originals import Copies, originals_of
from offline.learning.self_distillation.pictures import Opened, Shrunk, Unshrunk, crop_of, pictures_of
from offline.learning.self_distillation.views import _sampled, crop_boxes, random_view
from stage1.preprocess import Geometry, PreprocessSettings
from tests.support.challenges import patches

CPU = torch.device("cpu")


def opened(*sizes: tuple[int, int], geometry: Geometry = "squash") -> Opened:
    return Opened(tuple(patches().resize(size) for size in sizes), geometry, CPU)


def boxes(count: int, scale: tuple[float, float] = (0.05, 1.0), seed: int = 0) -> torch.Tensor:
    return crop_boxes(count, scale, torch.Generator().manual_seed(seed))


def test_a_crop_is_where_an_array_of_the_picture_would_be_sampled() -> None:
    picture = patches().resize((96, 64))
    array = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())[None]
    drawn = boxes(12, (0.3, 1.0))
    for box in drawn:
        cut = Opened((picture,), "squash", CPU).cut(box[None], (48, 48))
        sampled = _sampled(array, box[None], (48, 48))
        # Bilinear in both, of which one takes means where it shrinks.
        assert float((cut - sampled).abs().mean()) < 6
        assert float((cut - sampled.flip(-1)).abs().mean()) > 10


@pytest.mark.parametrize("size", [(1280, 720), (720, 1280), (640, 640)])
@pytest.mark.parametrize("shape", [(64, 64), (48, 80)])
def test_where_things_keep_their_proportions_a_crop_has_those_of_the_view(
    size: tuple[int, int], shape: tuple[int, int]
) -> None:
    stretch = shape[1] * size[1] / (shape[0] * size[0])
    for box in boxes(200).tolist():
        crop, plain = crop_of(box, stretch), crop_of(box, 1.0)
        assert min(crop.left, crop.top) >= 0
        assert max(crop.left + crop.width, crop.top + crop.height) <= 1 + 1e-6
        assert crop.mirrored == plain.mirrored
        drawn = plain.width / plain.height
        seen = crop.width * size[0] / (crop.height * size[1]) * shape[0] / shape[1]
        assert seen == pytest.approx(drawn, rel=1e-4)
        assert crop.width * crop.height <= plain.width * plain.height * (1 + 1e-6)
        if max(crop.width, crop.height) < 0.999:
            assert crop.width * crop.height == pytest.approx(plain.width * plain.height, rel=1e-4)


def test_a_small_crop_has_the_detail_that_a_shrunk_picture_lost() -> None:
    pixels = np.zeros((256, 256, 3), np.uint8)
    pixels[:, ::2] = 255
    picture = Image.fromarray(pixels)
    shrunk = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)[None]
    small = boxes(1, (0.01, 0.01))
    assert float(Opened((picture,), "squash", CPU).cut(small, (32, 32)).std()) > 60
    assert float(_sampled(torch.from_numpy(shrunk.copy()), small, (32, 32)).std()) < 5


def test_a_view_of_pictures_of_several_sizes_is_drawn_from_the_generator_alone() -> None:
    batch = opened((320, 180), (64, 200), (5, 7), geometry="wide")
    views = [random_view(batch, (24, 40), (0.1, 1.0), torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert views[0].shape == (3, 3, 24, 40)
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_pictures_are_opened_by_their_rows(tmp_path: Path) -> None:
    for number in range(3):
        patches().rotate(10 * number).save(tmp_path / f"{number}.png")
    copies = Copies(tmp_path / "copies", PreprocessSettings(size_px=32))
    pictures = Unshrunk(originals_of([tmp_path / f"{n}.png" for n in range(3)], copies), "crop")
    first, last = pictures.opened([0, 2], CPU).pictures
    assert np.array_equal(np.asarray(first), np.asarray(pictures.originals.picture(0)))
    assert np.array_equal(np.asarray(last), np.asarray(pictures.originals.picture(2)))
    assert len(pictures) == 3
    assert pictures_of(pictures) is pictures
    array = np.zeros((4, 3, 8, 8), np.uint8)
    assert isinstance(pictures_of(array), Shrunk)
    assert pictures_of(array).decides == array.shape
    assert pictures.decides != Unshrunk(pictures.originals, "wide").decides

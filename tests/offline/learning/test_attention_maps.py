"""Maps of attention: the weight of every place of an image, from views to the image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offline.learning.attention_maps import attention_maps, on_the_image
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.pooling import AttentionPool
from stage1.model.settings import ModelSettings, Pooling, RandomBackbone

BACKBONE = RandomBackbone(hidden=32, layers=2, heads=2, patch_px=16)


def net_of(shape: tuple[int, int], tiles: tuple[int, int] | None = None, pooling: Pooling = "attention") -> Stage1Net:
    model = ModelSettings(backbone=BACKBONE, adapter="none", pooling=pooling, queries=2, head_hidden=8)
    net = build(model, shape=shape, tiles=tiles, seed=0)
    if isinstance(net.pool, AttentionPool):
        with torch.no_grad():
            net.pool.queries.mul_(4)
    return net


def images(shape: tuple[int, int], count: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 3, *shape), dtype=np.uint8)


@pytest.mark.parametrize(("shape", "tiles"), [((64, 96), None), ((64, 96), (2, 3)), ((64, 64), (1, 2))])
def test_a_map_covers_the_image_and_sums_to_one(shape: tuple[int, int], tiles: tuple[int, int] | None) -> None:
    found = attention_maps(net_of(shape, tiles), images(shape))
    assert found.dtype == np.float32
    assert found.shape == (3, shape[0] // 16, shape[1] // 16)
    assert np.allclose(found.sum((1, 2)), 1, atol=1e-5)
    assert found.std() > 0.01


def test_a_map_is_the_mean_of_the_queries() -> None:
    net = net_of((64, 64)).eval()
    shown = images((64, 64))
    with torch.no_grad():
        each = net.attention(torch.from_numpy(shown))
    assert np.allclose(attention_maps(net, shown), each[:, :, 0].mean(1).numpy(), atol=1e-6)


def test_tiles_lie_where_they_were_cut_and_the_whole_lies_over_them() -> None:
    weights = np.zeros((1, 7, 2, 2), np.float32)
    weights[0, 0, 1, 0] = 0.6
    weights[0, 6, 0, 1] = 0.4
    found = on_the_image(weights, (2, 3))[0]
    assert found.shape == (4, 6)
    assert found[2, 5] == pytest.approx(0.4)
    assert np.allclose(found[2:, :3], 0.1)
    assert found.sum() == pytest.approx(1)
    assert np.count_nonzero(found) == 7


def test_a_pool_that_does_not_look_has_no_map() -> None:
    with pytest.raises(TypeError, match="only attention has weights"):
        attention_maps(net_of((64, 64), pooling="mean"), images((64, 64)))

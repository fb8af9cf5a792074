"""What a network says of images, in batches that memory is enough for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offline.learning.predict import in_fitting_batches, predict
from stage1.model.backbones import build
from stage1.model.settings import ModelSettings, RandomBackbone


def test_rows_that_memory_is_not_enough_for_go_in_smaller_batches_each_once() -> None:
    tried: list[int] = []

    def rows(start: int, stop: int) -> list[int]:
        tried.append(stop - start)
        if stop - start > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, stop))

    parts = in_fitting_batches(rows, 21, 16)
    assert [row for part in parts for row in part] == list(range(21))
    assert tried == [16, 8, 4, 4, 4, 4, 4, 1]


def test_memory_that_is_not_enough_for_one_row_is_an_error() -> None:
    def never(_start: int, _stop: int) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        in_fitting_batches(never, 3)


def test_outputs_in_half_precision_are_near_and_leave_the_weights_as_they_were() -> None:
    model = ModelSettings(backbone=RandomBackbone(hidden=32, layers=2, heads=2, patch_px=8), adapter="none")
    net = build(model, shape=(32, 32), seed=0)
    weights = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    exact, near = predict(net, images), predict(net, images, "bf16")
    assert 0 < np.abs(exact.logits - near.logits).max() < 0.05
    assert all(torch.equal(tensor, weights[name]) for name, tensor in net.state_dict().items())

"""Patches of other sizes beside the backbone's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import MobileNetV2Config, MobileNetV2Model

from offline.certify.onnx_export import check_export, export_onnx
from offline.data.dataset import Dataset, Row
from offline.errors import TrainingError
from offline.learning.predict import ImageSet
from offline.learning.settings import TrainSettings
from offline.learning.supervised.train import Trainee, train_supervised
from stage1.certificate.settings import CalibrationSettings
from stage1.model.adapters.attach import add_adapters, frozen_blocks, merge_adapters
from stage1.model.backbones import build, layout_of
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.model.weights import load_weights, save_weights

SIZE_PX = 64
MODEL = ModelSettings(
    backbone=RandomBackbone(hidden=32, layers=3, patch_px=16),
    adapter="lora",
    rank=2,
    last_layers=1,
    head_hidden=8,
    multi_scale=True,
)
CALIBRATION = CalibrationSettings(alpha=0.1, unit="row", grid_size=30, gate_size=5)


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3, SIZE_PX, SIZE_PX), dtype=np.uint8)


def labelled(count: int, seed: int, root: Path) -> ImageSet:
    rows = tuple(Row(image=f"{seed}/{i}.jpg", label=i % 2, group=f"{seed}/{i}") for i in range(count))
    return ImageSet(images(count, seed), Dataset(root, rows))


def weight(made: Stage1Net) -> Any:
    """Of the finer patches."""
    finer: Any = made.stems[0]
    return finer[0].weight


def net() -> Stage1Net:
    made = build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=0)
    add_adapters(made, MODEL)
    return made


def test_they_are_half_and_twice_as_coarse_and_pooled_over_the_image() -> None:
    made = build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=0).eval()
    without = build(MODEL.model_copy(update={"multi_scale": False}), shape=(SIZE_PX, SIZE_PX), seed=0).eval()
    shown = torch.from_numpy(images(3, 1))
    with torch.no_grad():
        found, plain = made.features(shown), without.features(shown)
        pixels = (shown.float() - made.mean) / made.std
        expected = [plain]
        stems: Any = list(made.stems)
        for stem, side in zip(stems, (8, 32), strict=True):
            grid = F.gelu(F.conv2d(pixels, stem[0].weight, stem[0].bias, stride=side))
            assert grid.shape[2:] == (SIZE_PX // side, SIZE_PX // side)
            expected += [grid.mean((2, 3)), grid.amax((2, 3))]
    assert found.shape == (3, made.width) == (3, without.width + 4 * 32)
    assert torch.allclose(found, torch.cat(expected, dim=1), atol=1e-5)


def test_a_convolutional_backbone_tells_the_side_of_its_cells() -> None:
    backbone = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, image_size=SIZE_PX))
    assert layout_of(backbone, (SIZE_PX, SIZE_PX)).patch_px == 32


def test_training_moves_them_and_sees_the_pixels(tmp_path: Path) -> None:
    made = net()
    before = weight(made).detach().clone()
    recipe = TrainSettings(epochs=1, batch_size=8, learning_rate=1e-2)
    trainee = Trainee(made, labelled(16, 1, tmp_path), labelled(16, 2, tmp_path))
    outcome = train_supervised(trainee, recipe, CALIBRATION, seed=0, progress=lambda *_: None, cache=tmp_path / "cache")
    assert not torch.equal(weight(made), before)
    assert not outcome.cached
    assert "see the pixels" in outcome.inputs


def test_no_activations_are_kept_instead_of_pixels(tmp_path: Path) -> None:
    made = net()
    assert frozen_blocks(made) == 0
    recipe = TrainSettings(epochs=1, batch_size=8, cache="on")
    trainee = Trainee(made, labelled(16, 1, tmp_path), labelled(16, 2, tmp_path))
    with pytest.raises(TrainingError, match=r"the patches of model\.multi_scale see the pixels"):
        train_supervised(trainee, recipe, CALIBRATION, seed=0, progress=lambda *_: None, cache=tmp_path)


def test_they_are_in_the_graph_and_in_the_weights(tmp_path: Path) -> None:
    made = net().eval()
    merge_adapters(made)
    export_onnx(made, tmp_path / "model.onnx", (SIZE_PX, SIZE_PX))
    assert check_export(made, tmp_path / "model.onnx", images(17, 3)) < 1e-4
    save_weights(made, tmp_path / "model.safetensors")
    again = build(MODEL, shape=(SIZE_PX, SIZE_PX), seed=9).eval()
    load_weights(again, tmp_path / "model.safetensors")
    shown = torch.from_numpy(images(2, 4))
    with torch.no_grad():
        assert torch.equal(again(shown)[0], made(shown)[0])

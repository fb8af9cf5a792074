"""The network of a run sees all of its input, or says what to set."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import Dinov2Config, Dinov2Model, MobileNetV2Config, MobileNetV2Model

from offline.stages.common.network import check_patches
from stage1.errors import ModelError
from stage1.model.backbones import build
from stage1.model.net import Layout, Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.preprocess import PreprocessSettings


def dinov2(settings: PreprocessSettings) -> Stage1Net:
    """With patches of 14 px."""
    config = Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=14)
    return Stage1Net(Dinov2Model(config), Layout(32, 1, 14), shape=settings.shape, head_hidden=8)


def cut(settings: PreprocessSettings) -> Stage1Net:
    model = ModelSettings(backbone=RandomBackbone(layers=1, patch_px=32))
    return build(model, shape=settings.shape, tiles=settings.tiles, seed=0)


def settings(**changes: Any) -> PreprocessSettings:
    return PreprocessSettings.model_validate(changes)


@pytest.mark.parametrize("chosen", [settings(), settings(size_px=252, geometry="wide"), settings(size_px=448)])
def test_an_input_of_whole_patches_is_taken(chosen: PreprocessSettings) -> None:
    check_patches(dinov2(chosen), chosen)


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (settings(size_px=160), r"160 x 160 px .* patches of 14 px, which Dinov2Model .*preprocess\.size_px.* 154"),
        (settings(size_px=288, geometry="wide"), r"288 x 512 px .* preprocess\.size_px and width_px .* size_px 294"),
        (settings(size_px=224, geometry="wide"), "224 x 400 px"),
    ],
)
def test_one_whose_edge_would_not_be_seen_is_refused(chosen: PreprocessSettings, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        check_patches(dinov2(chosen), chosen)


def test_a_random_backbone_is_held_to_its_patches_too() -> None:
    chosen = settings(size_px=48)
    net = build(ModelSettings(backbone=RandomBackbone(layers=1, patch_px=32)), shape=chosen.shape, seed=0)
    with pytest.raises(ModelError, match="patches of 32 px"):
        check_patches(net, chosen)


def test_tiles_are_held_to_the_patches_and_not_the_whole() -> None:
    check_patches(cut(settings(size_px=32, geometry="tiles")), settings(size_px=32, geometry="tiles"))
    chosen = settings(size_px=48, geometry="tiles")
    with pytest.raises(ModelError, match=r"a tile of 48 x 48 px .*size_px, the side of a tile, .* size_px 64"):
        check_patches(cut(chosen), chosen)


def test_a_convolutional_network_takes_any() -> None:
    chosen = settings(size_px=224, geometry="wide")
    backbone = MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, image_size=224))
    check_patches(Stage1Net(backbone, Layout(1280, 0, 32), shape=chosen.shape, head_hidden=8), chosen)

"""Stage-1 as a torch module: views, pooling, and a backbone that can be cut anywhere without changing what it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    MobileNetV2Config,
    MobileNetV2Model,
    ViTConfig,
    ViTModel,
)

from stage1.model.net import Layout, Stage1Net
from stage1.model.settings import Pooling
from stage1.model.trunk import blocks_of, can_be_cut

SIZE_PX = 64


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Nothing here trains."""
    with torch.no_grad():
        yield


def dinov3(layers: int = 3) -> DINOv3ViTModel:
    torch.manual_seed(0)
    return DINOv3ViTModel(
        DINOv3ViTConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=2,
            patch_size=8,
            num_register_tokens=2,
            layerscale_value=1.0,
            initializer_range=0.15,
            pos_embed_rescale=None,
        )
    )


def dinov2() -> Dinov2Model:
    torch.manual_seed(0)
    shape: dict[str, Any] = {"hidden_size": 1280, "num_hidden_layers": 3, "num_attention_heads": 4, "mlp_ratio": 1}
    return Dinov2Model(Dinov2Config(**shape, patch_size=32, image_size=2 * SIZE_PX))


def mobilenet() -> MobileNetV2Model:
    torch.manual_seed(0)
    return MobileNetV2Model(MobileNetV2Config(depth_multiplier=0.35, image_size=SIZE_PX))


def stage1(
    backbone: nn.Module, tiles: tuple[int, int] | None = None, pooling: Pooling = "cls_mean", **named: int
) -> Stage1Net:
    torch.manual_seed(1)
    layout = Layout(32, 3, 8) if isinstance(backbone, DINOv3ViTModel) else Layout(1280, 0, 32)
    shape = SIZE_PX, SIZE_PX
    net = Stage1Net(backbone, layout, shape=shape, head_hidden=8, tiles=tiles, pooling=pooling, named=named)
    net.eval()
    return net


def images(count: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = count, 3, SIZE_PX, SIZE_PX
    drawn: Tensor = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return drawn


@pytest.mark.parametrize("pooling", ["cls_mean", "attention"])
@pytest.mark.parametrize("tiles", [None, (2, 2), (1, 2)])
@pytest.mark.parametrize("make", [dinov3, dinov2, mobilenet])
def test_a_backbone_cut_at_any_block_says_the_same(
    make: type[nn.Module], tiles: tuple[int, int] | None, pooling: Pooling
) -> None:
    net = stage1(make(), tiles, pooling)
    expected = net.features(images())
    for cut in range(len(blocks_of(net.backbone)) + 1):
        state = net.prefix(images(), cut)
        assert len(state) == 3
        assert state.ndim == 2 or state.shape[1] == (1 if tiles is None else 1 + tiles[0] * tiles[1])
        assert torch.allclose(net.rest(state, cut), expected, atol=1e-5)


def test_a_state_of_one_cut_is_no_state_of_another() -> None:
    net = stage1(dinov3())
    assert not torch.allclose(net.rest(net.prefix(images(), 1), 2), net.features(images()), atol=1e-2)


def test_other_backbones_run_whole() -> None:
    vit = ViTModel(
        ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIZE_PX),
        add_pooling_layer=False,
    )
    assert can_be_cut(dinov3())
    assert can_be_cut(dinov2())
    assert can_be_cut(mobilenet())
    assert not can_be_cut(vit)
    assert len(blocks_of(vit)) == 2


def test_a_model_without_blocks_says_so() -> None:
    with pytest.raises(ValueError, match="Identity has no list of blocks"):
        blocks_of(nn.Identity())


class _Seen(nn.Module):
    """Returns what it is shown, as a grid."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.last_hidden_state = torch.empty(0)

    def forward(self, pixels: Tensor) -> _Seen:
        self.last_hidden_state = pixels
        return self


def test_a_grid_is_pooled_by_its_largest_and_its_mean_value() -> None:
    net = Stage1Net(_Seen(), Layout(3, 0), shape=(SIZE_PX, SIZE_PX), head_hidden=8, pooling="cls_mean")
    pixels = (images().float() - net.mean) / net.std
    expected = torch.cat([pixels.amax((2, 3)), pixels.mean((2, 3))], dim=1)
    assert torch.allclose(net.features(images()), expected, atol=1e-5)


def test_tokens_are_pooled_by_the_first_one_and_the_mean_patch_without_registers() -> None:
    net = stage1(dinov3())
    tokens = net.backbone((images().float() - net.mean) / net.std).last_hidden_state
    assert tokens.shape[1] == 1 + 2 + 64
    expected = torch.cat([tokens[:, 0], tokens[:, 3:].mean(1)], dim=1)
    assert torch.allclose(net.features(images()), expected, atol=1e-6)


def test_views_are_the_image_at_half_size_and_its_quarters_at_full_size() -> None:
    net = Stage1Net(_Seen(), Layout(3, 0), shape=(SIZE_PX, SIZE_PX), head_hidden=8, tiles=(2, 2))
    net.features(images(2))
    seen = net.backbone.last_hidden_state.unflatten(0, (2, 5))  # type: ignore[operator]
    pixels = (images(2).float() - net.mean) / net.std
    half = SIZE_PX // 2
    assert torch.allclose(seen[:, 0], nn.functional.avg_pool2d(pixels, 2))
    assert torch.equal(seen[:, 1], pixels[..., :half, :half])
    assert torch.equal(seen[:, 2], pixels[..., :half, half:])
    assert torch.equal(seen[:, 4], pixels[..., half:, half:])


def test_which_quarter_something_is_in_does_not_matter_but_that_it_is_there_does() -> None:
    net = stage1(dinov3(), (2, 2))
    empty = torch.full((1, 3, SIZE_PX, SIZE_PX), 90, dtype=torch.uint8)
    left, right = empty.clone(), empty.clone()
    left[..., 8:16, 8:16] = 250
    right[..., 8:16, SIZE_PX // 2 + 8 : SIZE_PX // 2 + 16] = 250
    width = net.width // 2
    quarters = [net.features(image)[:, width:] for image in (empty, left, right)]
    assert torch.allclose(quarters[1], quarters[2], atol=1e-6)
    assert not torch.allclose(quarters[0], quarters[1], atol=1e-3)


def test_batch_norms_keep_the_statistics_of_pretraining() -> None:
    net = stage1(mobilenet())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.train()
    assert net.class_head.training
    net(images())
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_named_heads_follow_the_two_main_outputs_in_their_order() -> None:
    net = stage1(dinov3(), severity=4, alteration=3)
    outputs = net.outputs(net.features(images()))
    found = net(images())
    assert [tuple(each.shape) for each in found] == [(3, 2), (3,), (3, 4), (3, 3)]
    assert list(outputs.named) == ["severity", "alteration"]
    assert torch.equal(found[2], outputs.named["severity"])

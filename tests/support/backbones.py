"""Small backbones on disk; needs torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    SwinConfig,
    SwinModel,
    ViTConfig,
    ViTModel,
)


def write_dinov3(directory: Path, *, seed: int = 0, **shape: Any) -> Path:
    """A DINOv3 of three blocks with random weights.

    Args:
        directory: where it is written.
        seed: of the weights.
        shape: what its config says besides.
    """
    torch.manual_seed(seed)
    config = DINOv3ViTConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        layerscale_value=1.0,
        initializer_range=0.15,
        **shape,
    )
    DINOv3ViTModel(config).save_pretrained(directory)
    return directory


def write_backbone(directory: Path, kind: str, *, size_px: int, seed: int = 0) -> Path:
    """A backbone of another family with random weights.

    Args:
        directory: where it is written.
        kind: `dinov2`, `dinov2_with_registers`, `vit`, `swin` or `convnext`; the first three have three blocks, the
            others three in two stages.
        size_px: side of its images.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    model = _MAKERS[kind](size_px)
    # At the usual 0.02 so small a network is nearly blind.
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "lambda" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.save_pretrained(directory)
    return directory


def _vit_shape(size_px: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": size_px,
        "patch_size": 8,
    }


_MAKERS: dict[str, Callable[[int], PreTrainedModel]] = {
    "dinov2": lambda size_px: Dinov2Model(Dinov2Config(mlp_ratio=2, **_vit_shape(size_px))),
    "dinov2_with_registers": lambda size_px: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(mlp_ratio=2, num_register_tokens=2, **_vit_shape(size_px))
    ),
    "vit": lambda size_px: ViTModel(ViTConfig(intermediate_size=64, **_vit_shape(size_px)), add_pooling_layer=False),
    "swin": lambda size_px: SwinModel(
        SwinConfig(
            embed_dim=16,
            depths=[1, 2],
            num_heads=[2, 2],
            window_size=2,
            mlp_ratio=2.0,
            image_size=size_px,
            patch_size=4,
            drop_path_rate=0.0,
        ),
        add_pooling_layer=False,
    ),
    "convnext": lambda size_px: ConvNextModel(
        ConvNextConfig(
            hidden_sizes=[16, 32], depths=[1, 2], num_stages=2, layer_scale_init_value=1.0, image_size=size_px
        )
    ),
}

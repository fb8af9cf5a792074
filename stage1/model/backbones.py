"""Stage-1 for training and export: a backbone, random or pretrained, with fresh heads."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel, DINOv3ViTConfig, DINOv3ViTModel, PreTrainedModel
from transformers.utils import logging as hf_logging

from stage1.errors import ModelError
from stage1.model import trunk
from stage1.model.backbone_access import how_to_get, is_here
from stage1.model.net import Layout, Stage1Net, view_shape
from stage1.model.settings import ModelSettings, PretrainedBackbone, RandomBackbone
from stage1.preprocess import Shape


def build(settings: ModelSettings, *, shape: Shape, tiles: tuple[int, int] | None = None, seed: int) -> Stage1Net:
    """Stage-1 with fresh heads, without adapters.

    Args:
        settings: backbone, pooling and heads.
        shape: height and width of the input, px.
        tiles: rows and columns that the network cuts it into; None for none.
        seed: seed of all random weights.

    Raises:
        ModelError: a pretrained backbone cannot be had, does not take images of this shape, or has no states after the
            blocks that are to be pooled; says what to do.
    """
    torch.manual_seed(seed)
    try:
        seen = view_shape(shape, tiles)
    except ValueError as error:
        raise ModelError(f"{error}: choose another preprocess.size_px or other tiles") from error
    backbone: PreTrainedModel
    if isinstance(settings.backbone, RandomBackbone):
        backbone = DINOv3ViTModel(_random_config(settings.backbone, seen))
    else:
        backbone = _pretrained(settings.backbone)
    if hasattr(backbone.config, "pos_embed_rescale"):
        # RoPE jitter is meant for self-supervised pretraining; in supervised training it only adds noise.
        backbone.config.pos_embed_rescale = None
    return Stage1Net(
        backbone,
        layout_of(backbone, seen),
        shape=shape,
        head_hidden=settings.head_hidden if settings.head == "mlp" else None,
        tiles=tiles,
        pooling=settings.pooling,
        queries=settings.queries,
        pooled_blocks=_shortened(backbone, settings.pooled_blocks, seen),
        named={name: len(named.classes) for name, named in settings.heads.items()},
        multi_scale=settings.multi_scale,
    )


@torch.no_grad()
def layout_of(backbone: PreTrainedModel, shape: Shape) -> Layout:
    """How the backbone's last hidden state is laid out, by trying it on a black image.

    Args:
        backbone: any of transformers.
        shape: height and width of what it is to see, px.

    Raises:
        ModelError: it does not take images of this shape, or does not return patch or grid features.
    """
    name = type(backbone).__name__
    hidden = _tried(backbone, shape, ())[-1]
    if hidden.ndim == 4:
        return Layout(width=hidden.shape[1], first_patch=0, patch_px=shape[1] // hidden.shape[3])
    if hidden.ndim != 3:
        raise ModelError(f"{name} returns a state of shape {tuple(hidden.shape)}, expected patch or grid features")
    has_cls = any(parameter.rsplit(".", 1)[-1] == "cls_token" for parameter, _ in backbone.named_parameters())
    registers = int(getattr(backbone.config, "num_register_tokens", 0))
    first_patch = 1 + registers if has_cls else 0
    # The number of patches may be one more than rows by columns, where a summary comes first.
    patch_px = round(math.sqrt(shape[0] * shape[1] / max(1, hidden.shape[1] - first_patch)))
    return Layout(width=hidden.shape[2], first_patch=first_patch, patch_px=patch_px)


def _tried(backbone: PreTrainedModel, shape: Shape, blocks: tuple[int, ...]) -> list[Tensor]:
    """States of a black image after some blocks, and the last hidden state."""
    backbone.train(False)
    try:
        return trunk.states(backbone, torch.zeros((1, 3, *shape)), blocks)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{type(backbone).__name__} does not return features of {shape[0]} x {shape[1]} px images: {error}; choose "
            "another preprocess.size_px or another model.backbone"
        ) from error


@torch.no_grad()
def _shortened(backbone: PreTrainedModel, pooled: tuple[int, ...], shape: Shape) -> tuple[int, ...]:
    """Take away the blocks after the last one that is pooled; numbers of the other pooled ones, from 1.

    Raises:
        ModelError: it has too few blocks, or they do not all have one width and a norm behind them.
    """
    if pooled == (-1,):
        return ()
    name = type(backbone).__name__
    hint = "so only its last state can be pooled: set model.pooled_blocks to [-1]"
    try:
        blocks = trunk.blocks_of(backbone)
        if all(blocks is not module for module in backbone.modules()):
            raise ValueError("its blocks lie in stages")
        count = len(blocks)
        if count + pooled[0] < 0:
            raise ModelError(f"{name} has {count} blocks: model.pooled_blocks has no block {pooled[0]} in it")
        *earlier, last = (count + 1 + block for block in pooled)
        asked = sorted({*earlier, last, count})
        *found, end = trunk.states(backbone, torch.zeros((1, 3, *shape)), asked)
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ModelError(f"{name} has no states of one width and a norm after its blocks, {hint}") from error
    if any(each.shape != end.shape for each in found) or not torch.allclose(found[-1], end, atol=1e-5):
        raise ModelError(f"{name} has no states of one width after its blocks, {hint}")
    trunk.shorten(backbone, last)
    return tuple(earlier)


def _random_config(backbone: RandomBackbone, shape: Shape) -> DINOv3ViTConfig:
    return DINOv3ViTConfig(
        hidden_size=backbone.hidden,
        intermediate_size=2 * backbone.hidden,
        num_hidden_layers=backbone.layers,
        num_attention_heads=backbone.heads,
        patch_size=backbone.patch_px,
        image_size=shape[0],
        num_register_tokens=0,
        layerscale_value=1.0,
        initializer_range=backbone.initializer_range,
        pos_embed_rescale=None,
    )


def _pretrained(backbone: PretrainedBackbone) -> PreTrainedModel:
    directory = Path(backbone.name)
    # A bar that counts tensors would be drawn across that of the run.
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        if directory.is_dir() and not list(directory.glob("*.safetensors")):
            # A config alone asks for a model of that shape with random weights; `torch.load` reads nothing here.
            made: PreTrainedModel = AutoModel.from_config(  # type: ignore[no-untyped-call]
                AutoConfig.from_pretrained(directory), dtype=torch.float32
            )
            return made
        loaded: PreTrainedModel = AutoModel.from_pretrained(
            backbone.name, local_files_only=is_here(backbone.name), use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ModelError(how_to_get(backbone.name, str(error))) from error
    return loaded

"""Stage-1 for training and export: a backbone, random or pretrained, with fresh heads."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, DINOv3ViTConfig, DINOv3ViTModel, PreTrainedModel
from transformers.utils import logging as hf_logging

from stage1.errors import ModelError
from stage1.model.net import Layout, Stage1Net
from stage1.model.settings import DINOV3, ModelSettings, PretrainedBackbone, RandomBackbone
from stage1.preprocess import Shape


def build(settings: ModelSettings, *, shape: Shape, seed: int) -> Stage1Net:
    """Stage-1 with fresh heads, without adapters.

    Args:
        settings: backbone and heads.
        shape: height and width of the input, px.
        seed: seed of all random weights.

    Raises:
        ModelError: a pretrained backbone cannot be had, or does not take images of this size; says what to do.
    """
    torch.manual_seed(seed)
    view_shape = shape if settings.views == "whole" else (shape[0] // 2, shape[1] // 2)
    backbone: PreTrainedModel
    if isinstance(settings.backbone, RandomBackbone):
        backbone = DINOv3ViTModel(_random_config(settings.backbone, view_shape))
    else:
        backbone = _pretrained(settings.backbone)
    if hasattr(backbone.config, "pos_embed_rescale"):
        # RoPE jitter is meant for self-supervised pretraining; in supervised training it only adds noise.
        backbone.config.pos_embed_rescale = None
    return Stage1Net(
        backbone,
        layout_of(backbone, view_shape),
        shape=shape,
        head_hidden=settings.head_hidden,
        views=settings.views,
        named={name: len(named.classes) for name, named in settings.heads.items()},
        multi_scale=settings.multi_scale,
    )


@torch.no_grad()
def layout_of(backbone: PreTrainedModel, shape: Shape) -> Layout:
    """How the backbone's last hidden state is laid out, by trying it on a black image.

    Raises:
        ModelError: it does not take images of this size, or does not return patch or grid features.
    """
    name = type(backbone).__name__
    backbone.train(False)
    try:
        hidden = backbone(torch.zeros((1, 3, *shape))).last_hidden_state
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{name} does not return features of {shape[0]} x {shape[1]} px images: {error}; choose another "
            "preprocess.size_px or another model.backbone"
        ) from error
    if hidden.ndim == 4:
        return Layout(width=hidden.shape[1], first_patch=0, patch_px=shape[1] // hidden.shape[3])
    if hidden.ndim != 3:
        raise ModelError(f"{name} returns a state of shape {tuple(hidden.shape)}, expected patch or grid features")
    has_cls = any(parameter.rsplit(".", 1)[-1] == "cls_token" for parameter, _ in backbone.named_parameters())
    registers = int(getattr(backbone.config, "num_register_tokens", 0))
    first_patch = 1 + registers if has_cls else 0
    # As many patches as fit, each a square.
    patches = max(1, hidden.shape[1] - first_patch)
    return Layout(hidden.shape[2], first_patch, patch_px=math.isqrt(shape[0] * shape[1] // patches))


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
            backbone.name, local_files_only=directory.is_dir(), use_safetensors=True, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise ModelError(_how_to_get(backbone.name, error)) from error
    return loaded


def _how_to_get(name: str, error: Exception) -> str:
    """What was wrong and what to do about it."""
    if "use_safetensors" in str(error):
        return (
            f"the backbone {name!r} has no weights in safetensors, and no others are read: give a model that has them, "
            "or a local directory, as model.backbone.name"
        )
    told = f"the backbone {name!r} cannot be loaded: {str(error).strip().splitlines()[0]}"
    if name == DINOV3 or "gated" in str(error) or "401" in str(error) or "403" in str(error):
        return (
            f"{told}. Its weights are gated: open https://huggingface.co/{name} while logged in, accept the licence, "
            "wait until access is granted, run `hf auth login` with a token that may read gated repositories, and "
            "start again. Without a network, give the directory of a downloaded copy: "
            "--set model.backbone.name=/path/to/dinov3"
        )
    return f"{told}. Give a model of the Hugging Face hub or a local directory as model.backbone.name"

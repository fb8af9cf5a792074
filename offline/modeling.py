"""Building Stage-1 for training: backbone, adapters, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, DINOv3ViTConfig, DINOv3ViTModel, PreTrainedModel

from offline.config import ModelSettings, PretrainedBackbone, RandomBackbone
from offline.errors import TrainingError
from stage1.model import Stage1Net

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
# A random backbone has learned nothing yet, so its patch embedding and norms are trained in full.
RANDOM_TRAINED = ("patch_embeddings", "norm1", "norm2", "norm")


def build(settings: ModelSettings, *, size_px: int, seed: int) -> Stage1Net:
    """Stage-1 with fresh heads, without adapters.

    Args:
        settings: backbone and heads.
        size_px: side of the input.
        seed: seed of all random weights.

    Raises:
        TrainingError: a pretrained backbone cannot be had; says what to do.
    """
    torch.manual_seed(seed)
    backbone: PreTrainedModel
    if isinstance(settings.backbone, RandomBackbone):
        backbone = DINOv3ViTModel(_random_config(settings.backbone, size_px))
    else:
        backbone = _pretrained(settings.backbone)
    config = backbone.config
    # RoPE jitter is meant for self-supervised pretraining; in supervised training it only adds noise.
    config.pos_embed_rescale = None
    registers = int(getattr(config, "num_register_tokens", 0))
    hidden = int(config.hidden_size)
    return Stage1Net(backbone, hidden=hidden, registers=registers, head_hidden=settings.head_hidden)


def _random_config(backbone: RandomBackbone, size_px: int) -> DINOv3ViTConfig:
    return DINOv3ViTConfig(
        hidden_size=backbone.hidden,
        intermediate_size=2 * backbone.hidden,
        num_hidden_layers=backbone.layers,
        num_attention_heads=backbone.heads,
        patch_size=backbone.patch_px,
        image_size=size_px,
        num_register_tokens=0,
        layerscale_value=1.0,
        initializer_range=backbone.initializer_range,
        pos_embed_rescale=None,
    )


def _pretrained(backbone: PretrainedBackbone) -> PreTrainedModel:
    try:
        model: PreTrainedModel = AutoModel.from_pretrained(backbone.name)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"backbone {backbone.name!r} cannot be loaded: {error}. DINOv3 is gated: accept its licence on its page of "
            "the Hugging Face hub, run `hf auth login`, or give a local directory with model.backbone.name"
        ) from error
    return model


def add_adapters(net: Stage1Net, settings: ModelSettings) -> None:
    """Freeze the backbone and put low-rank adapters on it; the heads stay trainable.

    References:
        Hu et al. (2021), LoRA, arXiv 2106.09685. Liu et al. (2024), DoRA, arXiv 2402.09353.
    """
    layers = int(net.backbone.config.num_hidden_layers)  # type: ignore[union-attr, arg-type]
    last = settings.last_layers or layers
    present = {
        name.rsplit(".", 1)[-1] for name, module in net.backbone.named_modules() if isinstance(module, nn.Linear)
    }
    random = isinstance(settings.backbone, RandomBackbone)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=2 * settings.rank,
        use_dora=settings.adapter == "dora",
        target_modules=[name for name in TARGETS if name in present],
        layers_to_transform=list(range(max(0, layers - last), layers)),
        layers_pattern="layer",
        modules_to_save=list(RANDOM_TRAINED) if random else None,
    )
    net.backbone = get_peft_model(net.backbone, config)


def merge_adapters(net: Stage1Net) -> None:
    """Fold the adapters into plain weights, in fp32."""
    if isinstance(net.backbone, PeftModel):
        net.backbone = net.backbone.float().merge_and_unload(safe_merge=True)


def parameter_groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for AdamW: vectors (norms, biases, magnitudes) are not decayed."""
    trainable = [p for p in net.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]


def save_weights(net: Stage1Net, path: Path) -> None:
    """Write merged weights as safetensors, fp32."""
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, path)


def load_weights(net: Stage1Net, path: Path) -> None:
    """Read merged weights; every tensor must be there and none may be left over."""
    net.load_state_dict(load_file(path), strict=True)

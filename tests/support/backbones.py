"""Small backbones on disk; needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import DINOv3ViTConfig, DINOv3ViTModel


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

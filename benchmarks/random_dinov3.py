"""Networks of the shape of a DINOv3 with random weights, for benchmarks in which what they say does not matter."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Of a DINOv3 with four registers and patches of 16 px."""

    hidden: int
    layers: int
    heads: int
    size_px: int = 224


VITS = Shape(384, 12, 6)


def network(shape: Shape, seed: int = 0) -> Any:
    """A Stage-1 on such a backbone, in evaluation mode; the same weights in every process."""
    # Imported where it is made: what serves an export has no torch.
    from transformers import DINOv3ViTConfig

    from stage1.model.backbones import build
    from stage1.model.settings import ModelSettings, PretrainedBackbone

    config = DINOv3ViTConfig(
        hidden_size=shape.hidden,
        intermediate_size=4 * shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        patch_size=16,
        image_size=shape.size_px,
        num_register_tokens=4,
        layerscale_value=1.0,
        initializer_range=shape.hidden**-0.5,
        pos_embed_rescale=None,
    )
    with tempfile.TemporaryDirectory() as scratch:
        config.save_pretrained(scratch)
        return build(
            ModelSettings(backbone=PretrainedBackbone(name=scratch)), shape=(shape.size_px, shape.size_px), seed=seed
        ).eval()

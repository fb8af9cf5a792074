"""Tokens of a frozen backbone, computed once and kept, and what one engine call costs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from offline.data.dataset import Dataset
from stage1.model.net import IMAGENET_MEAN, IMAGENET_STD

BATCH = 16
SHAPES = ((224, 224), (252, 448))
# Counted from the end; of twelve blocks the last, the eleventh and the tenth.
BLOCKS = (-1, -2, -3)


@dataclass(frozen=True)
class Tokens:
    """What a backbone makes of N pictures.

    Attributes:
        states: bf16 `(len(BLOCKS), N, 1 + P, D)`, through the last norm; the first token is CLS.
        key: of everything that decides them.
        gflops: of one picture through the whole backbone, multiplications and additions.
    """

    states: Tensor
    key: str
    gflops: float


def tokens(directory: Path, data: Dataset, shape: tuple[int, int], home: Path) -> Tokens:
    """Compute the tokens of all pictures, or read those that were kept.

    Args:
        directory: of a pretrained ViT with a CLS token and no registers, which tells the hidden states of its blocks.
        data: rows of the pictures.
        shape: height and width that a picture is resized to, in px.
        home: where tokens are kept.
    """
    weights = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps([weights, data.sha256, shape, BLOCKS]).encode()).hexdigest()[:16]
    path = home / f"tokens_{shape[0]}x{shape[1]}_{key}.pt"
    if not path.exists():
        home.mkdir(parents=True, exist_ok=True)
        model = AutoModel.from_pretrained(directory, local_files_only=True).eval()
        partial = path.with_suffix(".partial")
        torch.save({"states": _states(model, data, shape), "gflops": _gflops(directory, shape)}, partial)
        partial.rename(path)
    kept = torch.load(path, weights_only=True, mmap=True)
    return Tokens(kept["states"], key, kept["gflops"])


@torch.no_grad()
def _states(model: Any, data: Dataset, shape: tuple[int, int]) -> Tensor:
    parts = []
    for start in range(0, len(data), BATCH):
        pixels = _pixels(data, range(start, min(len(data), start + BATCH)), shape)
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model(pixels, output_hidden_states=True).hidden_states
        parts.append(torch.stack([model.layernorm(hidden[block].float()) for block in BLOCKS]).bfloat16())
    return torch.cat(parts, dim=1)


def _pixels(data: Dataset, rows: range, shape: tuple[int, int]) -> Tensor:
    """Normalised pictures `(len(rows), 3, H, W)`, resized whole with antialiasing, as `squash` does."""
    found = []
    for row in rows:
        with Image.open(data.path_of(data.rows[row].image)) as picture:
            resized = picture.convert("RGB").resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        found.append(np.asarray(resized, np.float32) / 255)
    mean, std = np.asarray(IMAGENET_MEAN, np.float32), np.asarray(IMAGENET_STD, np.float32)
    return torch.from_numpy(((np.stack(found) - mean) / std).transpose(0, 3, 1, 2).copy())


@torch.no_grad()
def _gflops(directory: Path, shape: tuple[int, int]) -> float:
    # The counter knows no fused attention of a CPU.
    model = AutoModel.from_pretrained(directory, local_files_only=True, attn_implementation="eager").eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, *shape))
    return float(counter.get_total_flops()) / 1e9

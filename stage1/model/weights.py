"""Weights of a network on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def save_weights(net: nn.Module, path: Path) -> None:
    """Write merged weights, of a network or of its backbone alone, as safetensors, fp32."""
    state = {name: tensor.detach().float().cpu().contiguous() for name, tensor in net.state_dict().items()}
    save_file(state, path)


def load_weights(net: nn.Module, path: Path) -> None:
    """Read merged weights; every tensor must be there and none may be left over."""
    net.load_state_dict(load_file(path), strict=True)


def weights_sha256(named: Sequence[tuple[str, Tensor]], about: Any) -> str:  # noqa: ANN401  anything with a repr
    """Hash of tensors by name, and of what else decides the states.

    Args:
        named: names and tensors.
        about: plain values, by their `repr`.
    """
    digest = hashlib.sha256(repr(about).encode())
    for name, tensor in named:
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

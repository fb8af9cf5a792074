"""The precision of the forward pass, and memory for time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.amp import GradScaler

from offline.errors import TrainingError
from offline.learning.settings import Precision

AUTOCAST = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which a forward pass runs at this precision; `auto` is bf16 on a GPU and fp32 on a CPU."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=AUTOCAST[precision])
    return context


def build_scaler(device: torch.device, precision: Precision) -> GradScaler | None:
    """Loss scaling, which only fp16 needs: small gradients would vanish in it."""
    return GradScaler(device.type) if precision == "fp16" else None


@contextmanager
def recomputing(backbone: nn.Module, wanted: bool) -> Iterator[None]:
    """Within it the backbone computes its activations twice instead of keeping them.

    Args:
        backbone: of transformers, with or without adapters.
        wanted: otherwise nothing changes.

    Raises:
        TrainingError: this backbone cannot.
    """
    if not wanted:
        yield
        return
    try:
        # Not the reentrant kind: with frozen weights below, no gradient would come through it.
        backbone.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
    except (AttributeError, ValueError) as error:
        raise TrainingError(
            f"{type(backbone).__name__} has no gradient checkpointing: set gradient_checkpointing to false"
        ) from error
    try:
        yield
    finally:
        backbone.activation_checkpointing_disable()  # type: ignore[operator]

"""The precision of the forward pass and of the weights that it reads, and memory for time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from peft.tuners.lora.layer import LoraLayer
from torch import Tensor, nn
from torch.amp import GradScaler

from offline.errors import TrainingError
from offline.learning.settings import Precision
from stage1.model.trunk import blocks_of

AUTOCAST = {"auto": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """The context in which a forward pass runs at this precision; `auto` is bf16 on a GPU and fp32 on a CPU."""
    dtype = autocast_dtype(device, precision)
    if dtype is None:
        return nullcontext()
    context: AbstractContextManager[None] = torch.autocast(device.type, dtype=dtype)
    return context


def autocast_dtype(device: torch.device, precision: Precision) -> torch.dtype | None:
    """What matrix products are computed in at this precision; None for fp32."""
    if precision == "fp32" or (precision == "auto" and device.type == "cpu"):
        return None
    return AUTOCAST[precision]


@contextmanager
def lowered(
    backbone: nn.Module,
    device: torch.device,
    precision: Precision,
    *,
    frozen: bool = True,
    precise: Sequence[Tensor] = (),
) -> Iterator[None]:
    """Within it, weights of the blocks that autocast would cast in every pass are kept in what it casts them to.

    Autocast remembers a cast only of a weight that trains, so each pass through frozen blocks would read all of their
    weights in fp32 and write them in half of that. The results are the same to the bit. A projection whose rows have a
    learned length reads its weight in fp32 and keeps it.

    Args:
        backbone: changed in place, and put back at the end.
        device: where it computes. A GPU's fp32 weights wait on the host meanwhile.
        precision: of the forward pass; with fp32 nothing changes.
        frozen: leave out what trains; without it, nothing within may train.
        precise: parameters that keep fp32, because they are changed by less than what they are cast to can show.
    """
    dtype = autocast_dtype(device, precision)
    kept_precise = {id(p) for p in precise}
    left = [p for p in _cast(backbone) if id(p) not in kept_precise and not (frozen and p.requires_grad)]
    found = [] if dtype is None else left
    kept = [(parameter, parameter.data.cpu()) for parameter in found]
    try:
        for parameter in found:
            parameter.data = parameter.data.to(dtype)
        yield
    finally:
        for parameter, weight in kept:
            parameter.data = weight.to(device)


def _cast(backbone: nn.Module) -> list[nn.Parameter]:
    """Parameters in fp32 of the blocks of a backbone that autocast casts, each once."""
    try:
        blocks = blocks_of(backbone)
    except ValueError:
        return []
    adapted = (m for m in blocks.modules() if isinstance(m, LoraLayer) and m.lora_magnitude_vector)
    precise = {module.get_base_layer() for module in adapted}
    cast = [m for m in blocks.modules() if isinstance(m, nn.Linear | nn.Conv2d) and m not in precise]
    return [p for p in dict.fromkeys(p for m in cast for p in m.parameters(recurse=False)) if p.dtype == torch.float32]


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """Within it, products in fp32 on a GPU may be computed in TF32: for scores that compare, and certify nothing."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


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

"""Student and teacher of an adaptation: what trains of a backbone, and a follower that shares what does not.

References:
    Khanna, Irgau, Lobell, Ermon (2025), ExPLoRA, arXiv 2406.10973, section 4 (what trains).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
from peft import LoraConfig
from torch import Tensor, nn

from offline.errors import TrainingError
from offline.learning.settings import AdaptSettings
from stage1.model.adapters.attach import QUERY_VALUE, with_low_rank
from stage1.model.trunk import blocks_of, plain

KINDS = ("dinov3_vit", "dinov2", "dinov2_with_registers")

Module = TypeVar("Module", bound=nn.Module)


def student_of(backbone: nn.Module, settings: AdaptSettings) -> nn.Module:
    """The backbone with what is to train of it: last blocks in full, adapters on query and value before, all norms.

    Args:
        backbone: a DINOv3 or DINOv2 without adapters; changed in place.
        settings: `unfrozen_blocks` and `rank`.

    Raises:
        TrainingError: it masks no patches, or has too few blocks.
    """
    _check_masks(backbone)
    if settings.unfrozen_blocks is None:
        return backbone.requires_grad_(True)
    blocks = blocks_of(backbone)
    adapted = len(blocks) - settings.unfrozen_blocks
    if adapted < 1:
        raise TrainingError(
            f"domain adaptation of a backbone of {len(blocks)} blocks with {settings.unfrozen_blocks} trained in full "
            "needs at least two blocks, one of them behind adapters: lower adapt_domain.unfrozen_blocks"
        )
    name_of = {module: name for name, module in backbone.named_modules()}
    full = blocks[adapted:]
    in_full = {module for block in full for module in block.modules()}
    norms = [m for m in backbone.modules() if isinstance(m, nn.LayerNorm) and m not in in_full]
    before = [m for block in blocks[:adapted] for m in block.modules() if isinstance(m, nn.Linear)]
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.rank,
        target_modules=[name_of[m] for m in before if name_of[m].rsplit(".", 1)[-1] in QUERY_VALUE],
        modules_to_save=[name_of[m] for m in (*full, *norms)],
    )
    return with_low_rank(backbone, config)


def _check_masks(backbone: nn.Module) -> None:
    model = plain(backbone)
    token = getattr(getattr(model, "embeddings", None), "mask_token", None)
    kind = getattr(getattr(model, "config", None), "model_type", "")
    if kind in KINDS and token is not None and "bool_masked_pos" in inspect.signature(model.forward).parameters:
        return
    raise TrainingError(
        f"{type(model).__name__} cannot be adapted: self-distillation masks patches, which DINOv3 and DINOv2 with "
        "their mask token can; set adapt_domain.enabled to false"
    )


def sharing_copy(module: Module, shared: Iterable[nn.Parameter]) -> Module:
    """A deep copy that keeps some parameters in common with the original instead of copying them.

    Args:
        module: anything.
        shared: parameters of it that both will have.
    """
    return copy.deepcopy(module, {id(parameter): parameter for parameter in shared})


def teacher_of(module: Module, trained: nn.Module) -> Module:
    """A copy in evaluation mode that owns the parameters that train in a part, and shares all others.

    Args:
        module: a network.
        trained: a part of it, or all of it.
    """
    own = {parameter for parameter in trained.parameters() if parameter.requires_grad}
    return sharing_copy(module, (p for p in module.parameters() if p not in own)).eval()


def pairs_of(student: nn.Module, teacher: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """What follows and what it follows: the teacher's and the student's parameters that train, by name."""
    theirs = dict(teacher.named_parameters())
    return [(theirs[name], p) for name, p in student.named_parameters() if p.requires_grad]


@torch.no_grad()
def follow(pairs: Sequence[tuple[Tensor, Tensor]], momentum: float) -> None:
    """Move each teacher tensor towards the student's: `momentum` of its own stays.

    Args:
        pairs: teacher and student tensors.
        momentum: in [0, 1].
    """
    torch._foreach_lerp_([mine for mine, _ in pairs], [theirs.detach() for _, theirs in pairs], 1 - momentum)


@torch.no_grad()
def way(pairs: Sequence[tuple[Tensor, Tensor]], start: Sequence[Tensor]) -> tuple[float, float]:
    """How far teacher and student are from where both began, as Euclidean lengths over all their tensors.

    Args:
        pairs: teacher and student tensors.
        start: the same tensors as they were, anywhere.
    """
    teacher, student = (
        sum(
            float((now.detach().cpu().float() - then.float()).square().sum())
            for now, then in zip(side, start, strict=True)
        )
        for side in zip(*pairs, strict=True)
    )
    return teacher**0.5, student**0.5

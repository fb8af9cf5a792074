"""What is trained of a backbone: low-rank adapters through peft, prompts, parallel bottlenecks; one way in and out.

References:
    Hu et al. (2021), LoRA, arXiv 2106.09685. Liu et al. (2024), DoRA, arXiv 2402.09353.
    DoRAN (2025), arXiv 2510.04331; see `stage1.model.adapters.doran`.
"""

from __future__ import annotations

import warnings
from typing import Any

from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.layer import Conv2d as LoraConv2d
from torch import nn

from stage1.errors import ModelError
from stage1.model.adapters.doran import SHARED, SHARED_BY_SHAPE, DoranConfig
from stage1.model.adapters.side_modules import ParallelMlp, PromptedBlock
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, RandomBackbone
from stage1.model.trunk import blocks_of, can_be_cut

LOW_RANK = ("doran", "dora", "lora")
QUERY_VALUE = {"q_proj", "v_proj", "query", "value"}
# A random backbone has learned nothing yet, so its patch embedding and norms are trained in full.
RANDOM_TRAINED = ("patch_embeddings", "norm1", "norm2", "norm")


def add_adapters(net: Stage1Net, settings: ModelSettings) -> None:
    """Freeze the backbone and put the adapter of the settings on it; the heads stay trainable.

    Args:
        net: without adapters; changed in place.
        settings: kind, rank, targets and number of blocks.

    Raises:
        ModelError: this backbone does not take this adapter.
    """
    for parameter in net.backbone.parameters():
        parameter.requires_grad_(False)
    if settings.adapter in LOW_RANK:
        net.backbone = with_low_rank(net.backbone, _low_rank(net, settings))
        _show_geometry(net.backbone)
    elif settings.adapter != "none":
        add_side_modules(net, settings)


def with_low_rank(backbone: nn.Module, config: LoraConfig) -> nn.Module:
    """A backbone with low-rank adapters on it, as peft wraps it.

    Args:
        backbone: changed in place.
        config: where they go.
    """
    with warnings.catch_warnings():
        # peft asks transformers for an attribute by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        wrapped: nn.Module = get_peft_model(backbone, config)
    return wrapped


def add_side_modules(net: Stage1Net, settings: ModelSettings) -> None:
    """Put in what stays in the graph after training: prompts or parallel bottlenecks; nothing for other adapters.

    What is new is drawn by the CPU, so that a seed means the same on every device, and then moved to that of its block.

    Raises:
        ModelError: this backbone does not take this adapter; says which does.
    """
    if settings.adapter not in {"prompts", "parallel"}:
        return
    blocks, name = blocks_of(net.backbone), type(net.backbone).__name__
    if settings.adapter == "prompts" and not net.layout.first_patch:
        raise ModelError(
            f"{name} has no CLS token, behind which the adapter 'prompts' puts its tokens: set model.adapter to lora "
            "or dora"
        )
    if not all(hasattr(block, "mlp") for block in blocks):
        raise ModelError(
            f"the blocks of {name} have no MLP of their own, beside which the adapter {settings.adapter!r} is put: set "
            "model.adapter to lora or dora"
        )
    for index in _adapted(blocks, settings):
        block = blocks[index]
        device = next(block.parameters()).device
        if settings.adapter == "prompts":
            blocks[index] = PromptedBlock(block, settings.rank, net.layout.width).to(device)
        else:
            block.mlp = ParallelMlp(block.mlp, settings.rank, _width(block.mlp)).to(device)  # type: ignore[arg-type]


def _width(mlp: nn.Module) -> int:
    """Channels that go into an MLP: the stages of a backbone may differ in them."""
    return next(module.in_features for module in mlp.modules() if isinstance(module, nn.Linear))


def _adapted(blocks: nn.ModuleList, settings: ModelSettings) -> range:
    return range(max(0, len(blocks) - (settings.last_layers or len(blocks))), len(blocks))


def _low_rank(net: Stage1Net, settings: ModelSettings) -> LoraConfig:
    common: dict[str, Any] = {
        "r": settings.rank,
        "lora_alpha": 2 * settings.rank,
        "lora_dropout": settings.dropout,
        "target_modules": _targets(net, settings),
        "modules_to_save": list(RANDOM_TRAINED) if isinstance(settings.backbone, RandomBackbone) else None,
    }
    if settings.adapter == "doran":
        chosen = settings.doran
        groups = SHARED if chosen.sharing == "query_value" else SHARED_BY_SHAPE
        return DoranConfig(
            **common,
            doran_share=[list(group) for group in groups],
            doran_hypernet=chosen.generated,
            doran_detach_norm=chosen.detach_norm,
        )
    return LoraConfig(**common, use_dora=settings.adapter == "dora")


def _targets(net: Stage1Net, settings: ModelSettings) -> list[str]:
    """Full names of the modules that are adapted."""
    blocks, backbone = blocks_of(net.backbone), net.backbone
    name_of = {module: name for name, module in backbone.named_modules()}
    inside = {m for index in _adapted(blocks, settings) for m in blocks[index].modules()}
    linear = [m for m in inside if isinstance(m, nn.Linear)]
    if linear:
        found = sorted(name_of[m] for m in linear if _wanted(name_of[m], settings.targets))
        if not found:
            raise ModelError(
                f"{type(backbone).__name__} has no {settings.targets} projections: set model.targets to all"
            )
        return found
    order = {module: place for place, module in enumerate(backbone.modules())}
    end = max(order[m] for m in blocks.modules())
    pointwise = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    # What follows the blocks is as near to the end as the last of them.
    late = [m for m in pointwise if m in inside or order[m] > end]
    if not late:
        raise ModelError(
            f"{type(backbone).__name__} has no linear layers or 1x1 convolutions in its blocks: set model.adapter to "
            "none"
        )
    if settings.adapter == "doran":
        raise ModelError(
            f"DoRAN adapts linear layers, and {type(backbone).__name__} has none in its blocks: set model.adapter to "
            "lora or dora"
        )
    return sorted(name_of[m] for m in late)


def _wanted(name: str, targets: str) -> bool:
    if targets == "query_value":
        return name.rsplit(".", 1)[-1] in QUERY_VALUE
    attention = any("attention" in part or "attn" in part for part in name.split("."))
    return targets == "all" or attention == (targets == "attention")


def _show_geometry(backbone: nn.Module) -> None:
    """Let adapted convolutions tell their geometry: transformers' MobileNet reads it from them to pad."""
    for module in backbone.modules():
        if isinstance(module, LoraConv2d):
            base = module.get_base_layer()
            module.stride, module.kernel_size, module.dilation = base.stride, base.kernel_size, base.dilation


def merge_adapters(net: Stage1Net) -> None:
    """Fold low-rank adapters into plain weights, in fp32; what stays in the graph stays."""
    if isinstance(net.backbone, PeftModel):
        net.backbone = net.backbone.float().merge_and_unload(safe_merge=True)


def frozen_blocks(net: Stage1Net) -> int:
    """Number of blocks at the start that, with all before them, no training changes; 0 if the network cannot be cut.

    All blocks count only if what follows them is frozen too; otherwise no block after one that is pooled does.
    """
    backbone = net.backbone
    if net.stems or not can_be_cut(backbone):
        return 0
    training = {p for p in backbone.parameters() if p.requires_grad}
    if not training:
        return len(blocks_of(backbone))
    blocks = blocks_of(backbone)
    in_blocks = [{*block.parameters()} & training for block in blocks]
    after = {p for name, p in backbone.named_parameters() if _follows(name)} & training
    if training - after - set().union(*in_blocks):
        return 0
    first = next((i for i, trained in enumerate(in_blocks) if trained), len(blocks) - 1)
    return min((first, *net.pooled_blocks))


def _follows(name: str) -> bool:
    """Whether a parameter of a backbone that can be cut comes after its blocks."""
    parts = name.split(".")
    return "layer" not in parts and (not {"norm", "layernorm", "conv_1x1"}.isdisjoint(parts))

"""A backbone cut in two at a block: what comes before the cut is computed once where it does not train.

A trunk is embedding, blocks, and what follows them. DINOv3, DINOv2 and MobileNetV2 can be cut; any other vision model
of transformers that returns patch or grid features runs whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from stage1.preprocess import Shape


def plain(backbone: nn.Module) -> nn.Module:
    """The backbone without the wrapper that peft puts around it; adapters inside it stay."""
    unwrap = getattr(backbone, "get_base_model", None)
    found: nn.Module = backbone if unwrap is None else unwrap()
    return found


def blocks_of(backbone: nn.Module) -> nn.ModuleList:
    """The blocks of a backbone in their order, through all its stages where it has any.

    A transformer or MobileNet keeps its blocks in one list, which is what comes back and may be written to. Swin and
    ConvNeXt keep a list in each stage of a list of stages; then it is a new list of the same blocks.

    Raises:
        ValueError: it has none.
    """
    found = max((_unfolded(each) for each in _outermost_lists(plain(backbone))), key=len, default=None)
    if found is None:
        raise ValueError(f"{type(plain(backbone)).__name__} has no list of blocks")
    return found


def _outermost_lists(module: nn.Module) -> list[nn.ModuleList]:
    """Lists of modules that are in no other list."""
    if isinstance(module, nn.ModuleList):
        return [module]
    return [found for child in module.children() for found in _outermost_lists(child)]


def _unfolded(stages: nn.ModuleList) -> nn.ModuleList:
    """The blocks of a list of stages, or the list itself if its members have none."""
    inside = [[each for each in _outermost_lists(stage) if len(each)] for stage in stages]
    if not all(inside):
        return stages
    # A stage of ConvNeXt also keeps a list of its norm and its downsampling: those of blocks are all of a kind.
    picked = [max(lists, key=lambda each: (len({*map(type, each)}) == 1, len(each))) for lists in inside]
    return nn.ModuleList(block for each in picked for block in _unfolded(each))


def can_be_cut(backbone: nn.Module) -> bool:
    """Whether `before` and `after` know this kind of backbone."""
    return _kind(backbone) in {"dinov3_vit", "dinov2", "mobilenet_v2"}


def states(backbone: nn.Module, pixels: Tensor, blocks: Sequence[int] = ()) -> list[Tensor]:
    """The state after each of some blocks, normed as the last one is, and the last hidden state.

    Args:
        backbone: of transformers, with or without adapters.
        pixels: normalised, `(N, 3, H, W)`; positions are interpolated to their size.
        blocks: numbers of blocks, from 1, in ascending order and without the last; they need a backbone with one width
            and a norm at its end.

    Returns:
        Tokens `(N, T, D)` each, or one grid `(N, C, H, W)`.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _given: tuple[Any, ...], found: Any) -> None:  # noqa: ANN401  as torch calls it
        kept.append(found[0] if isinstance(found, tuple) else found)

    hooks = [blocks_of(backbone)[number - 1].register_forward_hook(keep) for number in blocks]
    try:
        last: Tensor = backbone(pixels, **_resized(backbone)).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return [*_normed(backbone, kept), last]


def before(backbone: nn.Module, pixels: Tensor, cut: int) -> Tensor:
    """What goes into block `cut`.

    Args:
        backbone: one that can be cut.
        pixels: normalised, `(N, 3, H, W)`.
        cut: number of blocks before the cut.

    Returns:
        Tokens `(N, T, D)` of a transformer, a grid `(N, C, H, W)` of a convolutional network.
    """
    model: Any = plain(backbone)
    hidden: Tensor = model.conv_stem(pixels) if _kind(backbone) == "mobilenet_v2" else model.embeddings(pixels)
    given = _positions(backbone, pixels)
    for block in blocks_of(model)[:cut]:
        hidden = block(hidden, **given)
    return hidden


def after(backbone: nn.Module, hidden: Tensor, cut: int, shape: Shape, blocks: Sequence[int] = ()) -> list[Tensor]:
    """What `states` returns, from what goes into block `cut`.

    Args:
        backbone: one that can be cut.
        hidden: of `before`.
        cut: number of blocks before the cut.
        shape: height and width of the pixels that it came from.
        blocks: see `states`; none before the cut.
    """
    model: Any = plain(backbone)
    # Only shape, type and device of the pixels matter for the positions.
    weight: Tensor = next(model.embeddings.parameters()) if _kind(backbone) == "dinov3_vit" else hidden
    given = _positions(backbone, weight.new_empty((1, 3, *shape)))
    kept = [hidden] if cut in blocks else []
    for number, block in enumerate(blocks_of(model)[cut:], start=cut + 1):
        hidden = block(hidden, **given)
        if number in blocks:
            kept.append(hidden)
    last: Tensor = model.conv_1x1(hidden) if _kind(backbone) == "mobilenet_v2" else end_norm(model)(hidden)
    return [*_normed(backbone, kept), last]


def end_norm(backbone: nn.Module) -> nn.Module:
    """The norm after the last block.

    Raises:
        ValueError: there is none.
    """
    for module in (plain(backbone), *plain(backbone).children()):
        for name in ("norm", "layernorm"):
            found = getattr(module, name, None)
            if isinstance(found, nn.Module):
                return found
    raise ValueError(f"{type(plain(backbone)).__name__} has no norm after its last block")


def shorten(backbone: nn.Module, count: int) -> None:
    """Take the last blocks away.

    Args:
        backbone: of transformers, without adapters; changed in place.
        count: number of blocks that stay.
    """
    blocks, config = blocks_of(backbone), plain(backbone).config
    del blocks[count:]
    config.num_hidden_layers = count  # type: ignore[union-attr]


def _normed(backbone: nn.Module, kept: list[Tensor]) -> list[Tensor]:
    return [end_norm(backbone)(hidden) for hidden in kept] if kept else []


def _resized(backbone: nn.Module) -> dict[str, bool]:
    """What asks for positions of any size, of a backbone that wants to be asked."""
    asked = "interpolate_pos_encoding" in inspect.signature(plain(backbone).forward).parameters
    return {"interpolate_pos_encoding": True} if asked else {}


def _positions(backbone: nn.Module, pixels: Tensor) -> dict[str, Tensor]:
    """What blocks need beside the state: DINOv3's rotary positions; others have theirs in the embeddings."""
    if _kind(backbone) != "dinov3_vit":
        return {}
    model: Any = plain(backbone)
    return {"position_embeddings": model.rope_embeddings(pixels)}


def _kind(backbone: nn.Module) -> str:
    return str(getattr(getattr(plain(backbone), "config", None), "model_type", ""))

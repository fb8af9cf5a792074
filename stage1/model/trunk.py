"""A backbone cut in two at a block: what comes before the cut is computed once where it does not train.

A trunk is embedding, blocks, and what follows them. DINOv3 and MobileNetV2 can be cut; any other vision model of
transformers that returns patch or grid features runs whole.
"""

from __future__ import annotations

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
    return _kind(backbone) in {"dinov3_vit", "mobilenet_v2"}


def before(backbone: nn.Module, pixels: Tensor, cut: int) -> Tensor:
    """What goes into block `cut`.

    Args:
        backbone: one that can be cut.
        pixels: normalised, `(N, 3, H, W)`.
        cut: number of blocks before the cut.

    Returns:
        Tokens `(N, T, D)` of a transformer, a grid `(N, C, H, W)` of a convolutional network.
    """
    model = plain(backbone)
    if _kind(backbone) == "mobilenet_v2":
        hidden: Tensor = model.conv_stem(pixels)  # type: ignore[operator]
        for block in blocks_of(model)[:cut]:
            hidden = block(hidden)
        return hidden
    hidden, positions = model.embeddings(pixels), model.rope_embeddings(pixels)  # type: ignore[operator]
    for block in blocks_of(model)[:cut]:
        hidden = block(hidden, position_embeddings=positions)
    return hidden


def after(backbone: nn.Module, hidden: Tensor, cut: int, shape: Shape) -> Tensor:
    """The last hidden state, from what goes into block `cut`.

    Args:
        backbone: one that can be cut.
        hidden: of `before`.
        cut: number of blocks before the cut.
        shape: height and width of the pixels that it came from.
    """
    model = plain(backbone)
    if _kind(backbone) == "mobilenet_v2":
        for block in blocks_of(model)[cut:]:
            hidden = block(hidden)
        grid: Tensor = model.conv_1x1(hidden)  # type: ignore[operator]
        return grid
    # Only shape, type and device of the pixels matter for the positions.
    weight: Tensor = model.embeddings.patch_embeddings.weight  # type: ignore[union-attr, assignment]
    positions = model.rope_embeddings(weight.new_empty((1, 3, *shape)))  # type: ignore[operator]
    for block in blocks_of(model)[cut:]:
        hidden = block(hidden, position_embeddings=positions)
    tokens: Tensor = model.norm(hidden)  # type: ignore[operator]
    return tokens


def _kind(backbone: nn.Module) -> str:
    return str(getattr(getattr(plain(backbone), "config", None), "model_type", ""))

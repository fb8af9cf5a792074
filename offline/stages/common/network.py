"""What the stages that learn read: pictures in memory, and the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.data.dataset import Dataset
from offline.data.pictures.pixel_store import PixelStore
from offline.learning.predict import ImageSet, best_device
from stage1.errors import ModelError
from stage1.model.adapters.attach import add_side_modules
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.trunk import plain
from stage1.preprocess import PreprocessSettings

if TYPE_CHECKING:
    from offline.stages.common.context import Context


def images_of(context: Context, rows: Dataset) -> ImageSet:
    """The pictures of some rows, as an engine sees them, read from the disk when they are wanted.

    Rows that nobody sends train, and are seen through their copies.
    """
    settings = context.config.preprocess
    if not isinstance(rows.kept, PixelStore):
        return ImageSet(rows.array(settings), rows)
    return ImageSet(rows.kept.images(rows if rows.sender else rows.through_copies(), settings), rows)


def network_of(context: Context, *, trained: bool, seed: int | None = None) -> Stage1Net:
    """The network of this run with its first weights, on the device that computes.

    Args:
        context: of the stage.
        trained: whether it has the shape that it has after training, when some adapters have stayed in it.
        seed: of its first weights; None for that of the config. Where all of them are loaded over, any will do.

    Raises:
        ModelError: its backbone cannot be had, or does not cut the input, or a tile of it, into whole patches.
    """
    config = context.config
    drawn = config.seed if seed is None else seed
    net = build(config.model, shape=config.preprocess.shape, tiles=config.preprocess.tiles, seed=drawn)
    check_patches(net, config.preprocess)
    if trained:
        add_side_modules(net, config.model)
    return net.to(best_device())


def check_patches(net: Stage1Net, settings: PreprocessSettings) -> None:
    """Refuse an input whose right and lower edge a transformer would not see: it drops what is less than a patch.

    Args:
        net: of `build`.
        settings: of the input.

    Raises:
        ModelError: with what to set.
    """
    patch_px = getattr(plain(net.backbone).config, "patch_size", None)
    if not isinstance(patch_px, int) or not any(side % patch_px for side in net.view_shape):
        return
    height, width = net.view_shape
    nearest = max(1, round(height / patch_px)) * patch_px
    what = {"wide": "size_px and width_px", "tiles": "size_px, the side of a tile,"}.get(settings.geometry, "size_px")
    raise ModelError(
        f"{'a tile' if settings.tiles else 'an input'} of {height} x {width} px (height x width) is not cut into whole "
        f"patches of {patch_px} px, which {type(plain(net.backbone)).__name__} takes: set preprocess.{what} to "
        f"multiples of {patch_px}, for example size_px {nearest}"
    )

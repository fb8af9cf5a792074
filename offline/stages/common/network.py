"""What the stages that learn read: pictures in memory, and the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.data.dataset import Dataset
from offline.data.pixel_store import PixelStore
from offline.learning.predict import ImageSet, best_device
from offline.stages.common.inputs import splits_of
from stage1.model.adapters.attach import add_side_modules
from stage1.model.backbones import build
from stage1.model.net import Stage1Net

if TYPE_CHECKING:
    from offline.stages.common.context import Context


def images_of(context: Context, rows: Dataset) -> ImageSet:
    """The pictures of some rows, as an engine sees them; decoded once for all stages of a night."""
    contents = splits_of(context).contents
    return ImageSet(pixel_store(context).array(rows, context.config.preprocess, contents), rows)


def pixel_store(context: Context) -> PixelStore:
    """Where the pictures of this workspace are kept."""
    return PixelStore(context.pixels, context.progress.step)


def network_of(context: Context, *, trained: bool) -> Stage1Net:
    """The network of this run with its first weights, on the device that computes.

    Args:
        context: of the stage.
        trained: whether it has the shape that it has after training, when some adapters have stayed in it.
    """
    config = context.config
    net = build(config.model, shape=config.preprocess.shape, tiles=config.preprocess.tiles, seed=config.seed)
    if trained:
        add_side_modules(net, config.model)
    return net.to(best_device())

"""What the stages read: rows of the sets, the network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offline.data.dataset import Dataset
from offline.data.labels_csv import read_dataset
from offline.pipeline.run_files import SPLITS
from offline.pipeline.stage import StageContext
from offline.splits.settings import Split
from offline.splits.splits_file import Splits

if TYPE_CHECKING:
    from offline.learning.predict import ImageSet
    from stage1.model.net import Stage1Net

JUDGING: tuple[Split, ...] = ("val_select", "val_calib", "test")


def rows_of(context: StageContext, name: Split | None = None) -> Dataset:
    """The rows of a set, each in the group of everything that depends on it; all rows as the labels file has them."""
    data = read_dataset(context.data_root)
    return data if name is None else splits_of(context).dataset(data, name)


def splits_of(context: StageContext) -> Splits:
    """The sets that the first stage made."""
    return Splits.read(context.inputs["splits"] / SPLITS)


def images_of(context: StageContext, name: Split) -> ImageSet:
    """The pictures of a set, as an engine sees them, with their rows."""
    from offline.learning.predict import ImageSet  # noqa: PLC0415  torch is loaded only by the stages that train

    data = rows_of(context, name)
    return ImageSet(data.array(context.config.preprocess), data)


def network_of(context: StageContext, *, trained: bool) -> Stage1Net:
    """The network of this run with its first weights, on the device that computes.

    Args:
        context: of the stage.
        trained: whether it has the shape that it has after training, when some adapters have stayed in it.
    """
    from offline.learning.predict import best_device  # noqa: PLC0415
    from stage1.model.adapters.attach import add_side_modules  # noqa: PLC0415
    from stage1.model.backbones import build  # noqa: PLC0415

    config = context.config
    net = build(config.model, size_px=config.preprocess.size_px, seed=config.seed)
    if trained:
        add_side_modules(net, config.model)
    return net.to(best_device())

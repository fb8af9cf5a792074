"""Networks of a table, and the frozen part of them kept on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.learning.arena import Arena, Rows, Workplace
from benchmarks.learning.methods import Method
from benchmarks.learning.scale import HEAD_HIDDEN, RANK
from benchmarks.learning.task import Meter
from offline.learning.augmentation import augmenter
from offline.learning.frozen_prefix.fill import Filler, Frozen, Views
from offline.learning.settings import TrainSettings
from offline.learning.supervised.inputs import CachedViews
from stage1.model.adapters.attach import add_adapters, frozen_blocks
from stage1.model.backbones import build
from stage1.model.net import Stage1Net
from stage1.model.settings import ModelSettings, PretrainedBackbone

CPU = torch.device("cpu")
LAST_LAYERS = {"a": 3, "b": 4}
BATCH = {"a": 8, "b": 32}
PATCH_PX = {"a": 32, "b": 16}
PLAIN_SEED = 0


def backbone(place: Workplace, table: str, adapted_seed: int | None = None) -> Path:
    """Directory of the backbone that a training starts from.

    Args:
        place: of the run.
        table: `a` or `b`.
        adapted_seed: of the adaptation to domain B; None for the backbone as it came.
    """
    if table == "a":
        return Path(place.mobilenet)
    return place.path("b", "backbone" if adapted_seed is None else f"backbone_adapted_{adapted_seed}")


def make(method: Method, directory: Path, size_px: int, seed: int) -> Stage1Net:
    """A network with the adapter of a method."""
    settings = ModelSettings(
        backbone=PretrainedBackbone(name=str(directory)),
        adapter=method.adapter,
        rank=RANK,
        last_layers=LAST_LAYERS["b" if size_px < 224 else "a"],
        head_hidden=HEAD_HIDDEN,
    )
    net = build(settings, shape=(size_px, size_px), seed=seed)
    add_adapters(net, settings)
    return net


def train_settings(place: Workplace, table: str, method: Method, rate: float) -> TrainSettings:
    """How a method trains."""
    scale = place.scale
    adapted = scale.photograph_epochs if table == "a" else scale.street_epochs
    changes: dict[str, Any] = {"augmentation": "light", "cache": "on", "cache_views": scale.views}
    if method.kind == "heads":
        changes = {"augmentation": "none", "cache": "off"}
    return TrainSettings(
        epochs=scale.head_epochs if method.adapter == "none" else adapted,
        batch_size=BATCH[table],
        learning_rate=rate,
        cache_share=1.0,
        **(changes | dict(method.train)),
    )


@dataclass(frozen=True)
class Kept:
    """The kept states of a table's frozen blocks.

    Attributes:
        arena: rows and images.
        directory: of the cache.
        meter: told of what had to be filled.
    """

    arena: Arena
    directory: Path
    meter: Meter

    def fill(self, net: Stage1Net, views: int, seed: int) -> None:
        """Keep the images as they are, and augmented views of those that train.

        One process at a time may do so, and trainings must find everything there: the cache has a single writer.
        """
        trained, chose = (
            np.unique(np.concatenate(rows))
            for rows in zip(*((fold.train, fold.val_select) for fold in self.arena.folds), strict=True)
        )
        self._filled(net, np.arange(len(self.arena.data)), "plain", 1, PLAIN_SEED)
        # Training looks for the images that choose under its own seed, although nothing is drawn for them.
        self._filled(net, chose, "plain", 1, seed)
        self._filled(net, trained, "light", views, seed)

    @torch.no_grad()
    def features(self, net: Stage1Net, rows: Rows) -> NDArray[np.float32]:
        """Features of images as they are, `(len(rows), width)`."""
        source = self._filled(net, rows, "plain", 1, PLAIN_SEED)
        net.eval()
        parts: list[Tensor] = []
        for start in range(0, len(rows), 64):
            batch = np.arange(start, min(start + 64, len(rows)))
            parts.append(source.features(net, source.draw(batch, torch.Generator())))
        found: NDArray[np.float32] = torch.cat(parts).numpy()
        return found

    def _filled(self, net: Stage1Net, rows: Rows, kind: str, views: int, seed: int) -> CachedViews:
        images = self.arena.images()[rows]
        augment = augmenter("light" if kind == "light" else "none")
        frozen = Frozen(net, frozen_blocks(net), "auto", CPU)
        filler = Filler(frozen, self.directory, seed, self.meter.tell, lambda: None)
        found = filler.fill(Views(images, kind, augment, views))
        return CachedViews(*found, frozen.cut, CPU)

"""What goes into the trained part of the network: fresh augmented images, or kept states of the frozen part."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from offline.data.pictures.pixel_store import Images
from offline.errors import TrainingError
from offline.learning.augmentation import SEE_CHALLENGES, Augment, augmenter, unchanged, views
from offline.learning.challenge_views import MOST_SEEDS, Challenges
from offline.learning.frozen_prefix.cache import PrefixCache
from offline.learning.frozen_prefix.fill import Filler, Frozen, Views
from offline.learning.settings import TrainSettings
from stage1.model.adapters.attach import frozen_blocks
from stage1.model.net import Stage1Net
from stage1.model.trunk import blocks_of

ALL = slice(None)


class Inputs(Protocol):
    """Where a training gets its batches from.

    What is drawn stays on the host, in memory that a GPU copies from while it computes; `features` moves it. So batches
    can be drawn in a thread beside the training, which never waits for a copy.
    """

    def draw(self, rows: NDArray[np.intp], generator: torch.Generator, part: slice = ALL) -> Tensor:
        """A view of each of some rows, `(len(rows), ...)`; random numbers come from this generator alone.

        Args:
            rows: their numbers.
            generator: is left in the state that all of them leave.
            part: of which views are made.
        """
        ...

    def features(self, net: Stage1Net, batch: Tensor) -> Tensor:
        """Features `(N, width)`, on the training device, of what was drawn, or of a part of it."""
        ...


@dataclass(frozen=True)
class FreshViews:
    """Every image augmented anew each time.

    Attributes:
        images: uint8 `(N, 3, H, W)`.
        augment: see `offline.learning.augmentation`.
        device: where training is.
        challenges: makes what is augmented, as validators send it; None augments the images.
    """

    images: Images
    augment: Augment
    device: torch.device
    challenges: Challenges | None = None

    def draw(self, rows: NDArray[np.intp], generator: torch.Generator, part: slice = ALL) -> Tensor:
        """See `Inputs.draw`; uint8 `(N, 3, H, W)`."""
        seeds = torch.randint(MOST_SEEDS, (len(rows),), generator=generator).tolist()
        shown = views(self.images, self.challenges, self.augment, rows.tolist()[part], seeds[part])
        return _on_host(torch.from_numpy(shown), self.device)

    def features(self, net: Stage1Net, batch: Tensor) -> Tensor:
        """See `Inputs.features`."""
        return net.features(batch.to(self.device, non_blocking=True))


@dataclass(frozen=True)
class CachedViews:
    """One of a few kept views of each image, behind the frozen blocks.

    Attributes:
        cache: holds the states.
        slots: of each view of each row, `(N, K)`.
        cut: number of frozen blocks.
        device: where training is.
    """

    cache: PrefixCache
    slots: NDArray[np.int64]
    cut: int
    device: torch.device

    def draw(self, rows: NDArray[np.intp], generator: torch.Generator, part: slice = ALL) -> Tensor:
        """See `Inputs.draw`; bf16 `(N, V, ...)`, whose views are drawn evenly."""
        numbers = torch.randint(self.slots.shape[1], (len(rows),), generator=generator).numpy()
        return _on_host(self.cache.read(self.slots[rows[part], numbers[part]]), self.device)

    def features(self, net: Stage1Net, batch: Tensor) -> Tensor:
        """See `Inputs.features`."""
        return net.rest(batch.to(self.device, non_blocking=True).float(), self.cut)


@dataclass(frozen=True)
class Sources:
    """Where training and judging get their inputs.

    Attributes:
        train: of the rows that train.
        judged: of the rows that choose the checkpoint, as they are.
        cached: whether both come from the cache.
        reason: why they do not, or what it takes.
    """

    train: Inputs
    judged: Inputs
    cached: bool
    reason: str


def choose_inputs(
    net: Stage1Net,
    train: Images,
    judged: Images,
    settings: TrainSettings,
    *,
    challenges: Challenges | None,
    seed: int,
    device: torch.device,
    directory: Path | None,
    progress: Callable[[int, int, str], None],
    check: Callable[[], None],
) -> Sources:
    """The cache if the settings want it, the network has a frozen part and the disk has room; else fresh views.

    Args:
        net: with adapters.
        train: images that train, uint8 `(N, 3, H, W)`.
        judged: images that choose the checkpoint, uint8 `(M, 3, H, W)`.
        settings: of the training.
        challenges: makes views of the pictures that train, as validators send them.
        seed: of the augmentation.
        device: where training is.
        directory: where caches live; None for nowhere.
        progress: called with views done, views in all, and a note.
        check: called before each batch; may raise.

    Raises:
        TrainingError: the settings insist on the cache, and it cannot be had, or want what validators send, and nothing
            makes it.
    """
    augment = augmenter(settings.augmentation)
    if settings.augmentation not in SEE_CHALLENGES:
        challenges = None
    elif challenges is None:
        raise TrainingError(
            f"train_supervised.augmentation is {settings.augmentation}, which shows what validators make of picture "
            "files, and there are none: give them, or set it to light"
        )
    reason = _why_not(net, settings, directory)
    if not reason:
        assert directory is not None
        frozen = Frozen(net, frozen_blocks(net), settings.precision, device)
        filler = Filler(frozen, directory, seed, progress, check)
        ours = Views(train, settings.augmentation, augment, settings.cache_views, challenges)
        theirs = Views(judged, "plain", augment, 1)
        reason = _no_room(filler.needed(ours) + filler.needed(theirs), directory, settings.cache_share)
        if not reason:
            share = f"{frozen.cut} of {len(blocks_of(net.backbone))} blocks frozen"
            return Sources(
                CachedViews(*filler.fill(ours), frozen.cut, device),
                CachedViews(*filler.fill(theirs), frozen.cut, device),
                cached=True,
                reason=f"{share}, {settings.cache_views} views kept of each image",
            )
    if settings.cache == "on":
        raise TrainingError(f"train_supervised.cache is on, but {reason}; set it to auto to train without")
    return Sources(
        FreshViews(train, augment, device, challenges),
        FreshViews(judged, unchanged, device),
        cached=False,
        reason=reason,
    )


def _on_host(batch: Tensor, device: torch.device) -> Tensor:
    """A batch in memory that the device copies from beside its work."""
    return batch.pin_memory() if device.type == "cuda" else batch


def _why_not(net: Stage1Net, settings: TrainSettings, directory: Path | None) -> str:
    if settings.cache == "off":
        return "the settings switch it off"
    if directory is None:
        return "there is no workspace to keep it in"
    if net.stems:
        return "the patches of model.multi_scale see the pixels, which it does not keep"
    if not frozen_blocks(net):
        return "no block is frozen together with all before it, or this backbone cannot be cut"
    return ""


def _no_room(needed: int, directory: Path, share: float) -> str:
    """Why so many bytes may not be written; empty if they may."""
    free = shutil.disk_usage(directory).free
    if needed <= share * free:
        return ""
    return (
        f"the frozen activations take {needed / 2**30:.1f} GiB, more than {share:.0%} of the {free / 2**30:.1f} GiB "
        "that are free"
    )

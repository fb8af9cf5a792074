"""Filling the cache: what the frozen blocks make of augmented views, each the same whichever images are beside it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.learning import augmentation
from offline.learning.augmentation import Augment
from offline.learning.frozen_prefix.cache import PrefixCache, key_of
from offline.learning.precision import autocast
from offline.learning.settings import Precision
from stage1.model import net as network
from stage1.model import trunk
from stage1.model.net import Stage1Net
from stage1.model.trunk import blocks_of, plain
from stage1.model.weights import weights_sha256
from stage1.preprocess import Pixels

PLAIN = -1
BUILD_BATCH = 32


@dataclass(frozen=True)
class Frozen:
    """The part of a network that does not train, and how its states are made.

    Attributes:
        net: the network, in evaluation mode while states are made.
        cut: number of frozen blocks, at least one.
        precision: of the forward pass.
        device: where it is.
    """

    net: Stage1Net
    cut: int
    precision: Precision
    device: torch.device

    @torch.no_grad()
    def states(self, images: Tensor) -> Tensor:
        """States `(N, ...)` of uint8 images `(N, 3, S, S)`."""
        training = self.net.training
        self.net.eval()
        with autocast(self.device, self.precision):
            found = self.net.prefix(images.to(self.device), self.cut)
        self.net.train(training)
        return found

    def sha256(self, kind: str) -> str:
        """Hash of everything that decides a state but the image: weights, config, code and versions."""
        net = self.net
        about = (kind, self.cut, net.views, net.view_px, self.precision, self.device.type)
        config: Any = plain(net.backbone).config
        buffers = [("mean", net.mean), ("std", net.std)]
        code = [inspect.getsource(module) for module in (augmentation, network, trunk, sys.modules[__name__])]
        versions = [version(name) for name in ("torch", "transformers", "peft", "kornia", "pillow", "simplejpeg")]
        decides = (*about, config.to_json_string(use_diff=False), code, versions)
        return weights_sha256([*self._weights(), *buffers], decides)

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        backbone = plain(self.net.backbone)
        blocks = blocks_of(backbone)
        if self.cut == len(blocks):
            yield from backbone.state_dict().items()
            return
        late = {p for block in blocks[self.cut :] for p in block.parameters()}
        trained = {p for p in backbone.parameters() if p.requires_grad}
        for name, tensor in backbone.state_dict(keep_vars=True).items():
            if not (isinstance(tensor, nn.Parameter) and (tensor in late or tensor in trained)):
                yield name, tensor


def view(pixels: Pixels, number: int, aspect: float, augment: Augment, key: bytes) -> Tensor:
    """One view of an image, the same whichever images are beside it.

    Args:
        pixels: uint8 `(3, S, S)`.
        number: of the view; `PLAIN` for the image as it is.
        aspect: width by height of its frame.
        augment: see `offline.learning.augmentation`.
        key: of the view; seeds what is drawn.

    Returns:
        uint8 `(3, S, S)`.
    """
    image = torch.from_numpy(pixels)
    if number == PLAIN:
        return image
    generator = torch.Generator().manual_seed(int.from_bytes(key[:7]))
    return augment(image[None], torch.tensor([aspect]), generator)[0]


@dataclass(frozen=True)
class Views:
    """Which views of which images are wanted.

    Attributes:
        images: uint8 `(N, 3, S, S)`.
        aspects: width by height of their frames, `(N,)`.
        kind: name of the augmentation; `plain` for the images as they are.
        augment: the augmentation of that name.
        count: views of each image, K.
    """

    images: Pixels
    aspects: NDArray[np.float32]
    kind: str
    augment: Augment
    count: int

    def keys(self, seed: int) -> list[tuple[bytes, int, int]]:
        """Key, row and number of each view, those of a row one after another."""
        numbers = [PLAIN] if self.kind == "plain" else range(self.count)
        return [
            (key_of(image, number, float(aspect), seed), row, number)
            for row, (image, aspect) in enumerate(zip(self.images, self.aspects, strict=True))
            for number in numbers
        ]


@dataclass(frozen=True)
class Filler:
    """Brings views into the cache.

    Attributes:
        frozen: makes the states.
        directory: where caches live.
        seed: of the augmentation.
        progress: called with views done, views in all, and a note.
        check: called before each batch; may raise.
    """

    frozen: Frozen
    directory: Path
    seed: int
    progress: Callable[[int, int, str], None]
    check: Callable[[], None]

    def needed(self, views: Views) -> int:
        """Bytes that filling would write."""
        cache = self._open(views)
        return cache.slot_bytes * len({key for key, _, _ in views.keys(self.seed) if key not in cache})

    def _open(self, views: Views) -> PrefixCache:
        shape = self.frozen.states(torch.from_numpy(views.images[:1])).shape[1:]
        return PrefixCache(self.directory / self.frozen.sha256(views.kind)[:16], shape)

    def fill(self, views: Views) -> tuple[PrefixCache, NDArray[np.int64]]:
        """Compute what is missing.

        Returns:
            The cache and the slot of each view, `(N, K)`.

        Raises:
            TrainingError: the disk is full.
        """
        cache, wanted = self._open(views), views.keys(self.seed)
        missing = list({key: (key, row, number) for key, row, number in wanted if key not in cache}.values())
        for start in range(0, len(missing), BUILD_BATCH):
            self.check()
            batch = missing[start : start + BUILD_BATCH]
            pictures = [
                view(views.images[row], number, float(views.aspects[row]), views.augment, key)
                for key, row, number in batch
            ]
            cache.append([key for key, _, _ in batch], self.frozen.states(torch.stack(pictures)))
            self.progress(start + len(batch), len(missing), "keeping the activations of the frozen blocks")
        return cache, cache.slots([key for key, _, _ in wanted]).reshape(len(views.images), -1)

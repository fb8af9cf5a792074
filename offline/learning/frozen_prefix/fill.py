"""Filling the cache: what the frozen blocks make of augmented views, each the same whichever images are beside it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.data import originals
from offline.data.pictures.pixel_store import Images, PixelRows
from offline.learning import augmentation, challenge_views
from offline.learning.augmentation import Augment, unchanged, views
from offline.learning.challenge_views import Challenges
from offline.learning.frozen_prefix.cache import PrefixCache, digest_of, key_of
from offline.learning.precision import autocast, lowered
from offline.learning.settings import Precision
from offline.learning.throughput.ahead import ahead
from offline.stream import challenge, distortions, geometry
from stage1 import image_file, preprocess
from stage1.model import net as network
from stage1.model import pooling, trunk
from stage1.model.net import Stage1Net
from stage1.model.trunk import blocks_of, plain
from stage1.model.weights import weights_sha256

PLAIN = -1
BUILD_BATCH = 32
# Their code, and that of these packages, decides what a view looks like and what is kept of it.
MODULES = (
    augmentation,
    challenge_views,
    originals,
    challenge,
    geometry,
    distortions,
    preprocess,
    image_file,
    network,
    pooling,
    trunk,
)
DISTRIBUTIONS = ("torch", "transformers", "peft", "numpy", "pillow", "scipy", "simplejpeg")


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
    _shapes: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict, init=False, repr=False)

    @torch.no_grad()
    def states(self, images: Tensor) -> Tensor:
        """States `(N, ...)` of uint8 images `(N, 3, H, W)`."""
        training = self.net.training
        self.net.eval()
        with autocast(self.device, self.precision):
            found = self.net.prefix(images.to(self.device), self.cut)
        self.net.train(training)
        return found

    def shape(self, image: Sequence[int]) -> tuple[int, ...]:
        """Shape of the state of one image of this shape, tried once."""
        image = tuple(image)
        if image not in self._shapes:
            self._shapes[image] = tuple(self.states(torch.zeros((1, *image), dtype=torch.uint8)).shape[1:])
        return self._shapes[image]

    def sha256(self, decides: tuple[object, ...]) -> str:
        """Hash of everything that decides a state but the image: weights, config, code and versions.

        Args:
            decides: what else decides a view, as JSON values.
        """
        net = self.net
        about = (
            *decides,
            self.cut,
            net.tiles,
            net.shape,
            net.pooling,
            net.pooled_blocks,
            self.precision,
            self.device.type,
        )
        config: Any = plain(net.backbone).config
        buffers = [("mean", net.mean), ("std", net.std)]
        code = [inspect.getsource(module) for module in (*MODULES, sys.modules[__name__])]
        versions = [version(name) for name in DISTRIBUTIONS]
        everything = (*about, config.to_json_string(use_diff=False), code, versions, self._weights_sha256)
        return weights_sha256(buffers, everything)

    @cached_property
    def _weights_sha256(self) -> str:
        """Of the frozen weights, taken once: gigabytes are copied to the host for it."""
        return weights_sha256([*self._weights()], ())

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


@dataclass(frozen=True)
class Views:
    """Which views of which images are wanted.

    Attributes:
        images: uint8 `(N, 3, H, W)`.
        kind: name of the augmentation; `plain` for the images as they are.
        augment: the augmentation of that name.
        count: views of each image, K.
        challenges: makes what is augmented, as validators send it; None augments the images.
    """

    images: Images
    kind: str
    augment: Augment
    count: int
    challenges: Challenges | None = None

    @property
    def decides(self) -> tuple[object, ...]:
        """What decides a view but image, number and seed, as JSON values."""
        return self.kind, () if self.challenges is None else self.challenges.decides

    def keys(self, seed: int) -> list[tuple[bytes, int, int]]:
        """Key, row and number of each view, those of a row one after another."""
        numbers = [PLAIN] if self.kind == "plain" else range(self.count)
        images = self.images
        digests = images.digests if isinstance(images, PixelRows) else [digest_of(image) for image in images]
        return [(key_of(digest, number, seed), row, number) for row, digest in enumerate(digests) for number in numbers]

    def made(self, wanted: Sequence[tuple[bytes, int, int]]) -> Tensor:
        """Some views, each the same whichever are made beside it, uint8 `(len(wanted), 3, H, W)`.

        Args:
            wanted: key, row and number of each; the key seeds what is drawn.
        """
        rows, seeds = [row for _, row, _ in wanted], [int.from_bytes(key[:7]) for key, _, _ in wanted]
        augment = unchanged if self.kind == "plain" else self.augment
        return torch.from_numpy(views(self.images, self.challenges, augment, rows, seeds))


@dataclass(frozen=True)
class Wanted:
    """Views that are to be in a cache.

    Attributes:
        views: of which images; held, so that no other object has its id.
        cache: where.
        keys: key, row and number of each, those of a row one after another.
        missing: those that are not there, each once.
    """

    views: Views
    cache: PrefixCache
    keys: list[tuple[bytes, int, int]]
    missing: list[tuple[bytes, int, int]]


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
    _wanted: dict[int, Wanted] = field(default_factory=dict, init=False, repr=False)

    def needed(self, views: Views) -> int:
        """Bytes that filling would write; what is looked up for it is not looked up again to fill."""
        self._wanted[id(views)] = found = self._look_up(views)
        return found.cache.slot_bytes * len(found.missing)

    def _look_up(self, views: Views) -> Wanted:
        shape = self.frozen.shape(views.images.shape[1:])
        cache = PrefixCache(self.directory / self.frozen.sha256(views.decides)[:16], shape)
        keys = views.keys(self.seed)
        missing = {key: (key, row, number) for key, row, number in keys if key not in cache}
        return Wanted(views, cache, keys, list(missing.values()))

    def fill(self, views: Views) -> tuple[PrefixCache, NDArray[np.int64]]:
        """Compute what is missing; views are made ahead, while the network computes.

        Returns:
            The cache and the slot of each view, `(N, K)`.

        Raises:
            TrainingError: the disk is full.
        """
        wanted = self._wanted.pop(id(views), None) or self._look_up(views)
        cache, missing, done = wanted.cache, wanted.missing, 0
        groups = [missing[start : start + BUILD_BATCH] for start in range(0, len(missing), BUILD_BATCH)]
        made = ahead(views.made, groups)
        with (
            closing(made),
            cache.together(),
            lowered(self.frozen.net.backbone, self.frozen.device, self.frozen.precision),
        ):
            for group, images in zip(groups, made, strict=True):
                self.check()
                cache.append([key for key, _, _ in group], self.frozen.states(images))
                done += len(group)
                self.progress(done, len(missing), "keeping the activations of the frozen blocks")
        return cache, cache.slots([key for key, _, _ in wanted.keys]).reshape(len(views.images), -1)

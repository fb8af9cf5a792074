"""A batch of pictures at their own resolution, from which the crops of self-distillation are cut."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from engines.machine.cores import on_all_cores
from offline.data.originals import Crop, Originals, resized
from offline.data.pictures.pixel_store import Images, PixelRows
from stage1.preprocess import Geometry, Shape


@dataclass(frozen=True)
class Opened:
    """Pictures of N rows, decoded.

    Attributes:
        pictures: RGB, each in its own size.
        geometry: of the engine's input. With `squash` a crop has other proportions than the picture, as the input has;
            otherwise things keep theirs.
        device: where crops are put.
    """

    pictures: tuple[Image.Image, ...]
    geometry: Geometry
    device: torch.device

    def __len__(self) -> int:
        return len(self.pictures)

    def cut(self, boxes: Tensor, shape: Shape) -> Tensor:
        """A crop of each picture, resized with antialiasing.

        Args:
            boxes: affine maps `(N, 2, 3)` of `offline.learning.self_distillation.views.crop_boxes`, on the CPU.
            shape: height and width of the crops, px.

        Returns:
            fp32 `(N, 3, *shape)`, in [0, 255].
        """

        def one(picture: Image.Image, box: list[list[float]]) -> np.ndarray:
            stretch = 1.0 if self.geometry == "squash" else shape[1] * picture.height / (shape[0] * picture.width)
            return np.asarray(resized(picture, crop_of(box, stretch), shape)).transpose(2, 0, 1)

        found = np.stack(on_all_cores(one, self.pictures, boxes.tolist()))
        return torch.from_numpy(found).to(self.device).float()


# What crops are cut from: pictures, or uint8 `(N, 3, H, W)` on the device.
Batch = Opened | Tensor


class Pictures(Protocol):
    """What a self-distillation sees."""

    def __len__(self) -> int: ...

    @property
    def decides(self) -> tuple[object, ...]:
        """What decides a crop but picture and box, as JSON values."""
        ...

    def opened(self, rows: Sequence[int], device: torch.device) -> Batch:
        """Some of them, to cut from.

        Raises:
            DatasetError: a file cannot be read.
        """
        ...


@dataclass(frozen=True)
class Shrunk:
    """Pictures in memory as an engine sees them, whose detail is lost already.

    Attributes:
        images: uint8 `(N, 3, H, W)`.
    """

    images: Images

    def __len__(self) -> int:
        return len(self.images)

    @property
    def decides(self) -> tuple[object, ...]:
        """See `Pictures.decides`."""
        return self.images.shape

    def opened(self, rows: Sequence[int], device: torch.device) -> Tensor:
        """See `Pictures.opened`."""
        return torch.from_numpy(self.images[list(rows)]).to(device)


@dataclass(frozen=True)
class Unshrunk:
    """Pictures of files, opened when they are wanted.

    Attributes:
        originals: where they are.
        geometry: see `Opened`.
    """

    originals: Originals
    geometry: Geometry

    def __len__(self) -> int:
        return len(self.originals)

    @property
    def decides(self) -> tuple[object, ...]:
        """See `Pictures.decides`."""
        return len(self), self.geometry, *self.originals.decides

    def opened(self, rows: Sequence[int], device: torch.device) -> Opened:
        """See `Pictures.opened`; decoded on all cores."""
        return Opened(tuple(self.originals.pictures(rows)), self.geometry, device)


def pictures_of(images: Images | Pictures) -> Pictures:
    """Pictures as they are, or those of an array."""
    return Shrunk(images) if isinstance(images, np.ndarray | PixelRows) else images


def crop_of(box: list[list[float]], stretch: float) -> Crop:
    """The crop that an affine map cuts out.

    Args:
        box: the two rows of the map, from a crop to the picture, both in [-1, 1].
        stretch: how much wider than the map says it is in proportion to its height. It has the area that the map says,
            or less where a side would be longer than the picture's, and its place in what is left free.
    """
    (signed, _, across), (_, height, down) = box
    width, root = abs(signed), math.sqrt(stretch)
    least = min(1.0, 1 / (width * root), root / height)
    wide, high = min(1.0, width * root * least), min(1.0, height / root * least)
    # The middle lies in what is free of [-1, 1], the first edge in what is free of [0, 1].
    left, top = _place(across, 1 - width) * (1 - wide), _place(down, 1 - height) * (1 - high)
    return Crop(left, top, wide, high, mirrored=signed < 0)


def _place(middle: float, free: float) -> float:
    return 0.5 if free <= 0 else min(1.0, max(0.0, (middle / free + 1) / 2))

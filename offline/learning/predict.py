"""What a network says of images, in batches, and on which device."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from offline.data.dataset import Dataset
from offline.data.pictures.pixel_store import Images, picked
from offline.learning.precision import autocast, fast_products, lowered
from offline.learning.settings import Precision
from stage1.model.net import NetOutputs, Stage1Net
from stage1.outputs import Stage1Outputs

EVAL_BATCH = 64


@dataclass(frozen=True)
class ImageSet:
    """Preprocessed images with their rows.

    Attributes:
        images: uint8 `(N, 3, H, W)`, in memory or on the disk.
        data: the rows, in the same order.
    """

    images: Images
    data: Dataset

    def pick(self, rows: NDArray[np.intp]) -> ImageSet:
        """Some of them, by their numbers; what is on the disk stays there."""
        ids = self.data.ids
        return ImageSet(picked(self.images, rows), self.data.pick([ids[row] for row in rows.tolist()]))


def device_of(net: nn.Module) -> torch.device:
    """Where the network is."""
    return next(net.parameters()).device


def best_device() -> torch.device:
    """The accelerator of this process, as accelerate sees it; the CPU without one."""
    # Takes seconds to import, and only a stage that trains asks.
    from accelerate import PartialState  # noqa: PLC0415

    device: torch.device = PartialState().device
    return device


@torch.no_grad()
def predict(net: Stage1Net, images: Images, precision: Precision = "fp32") -> Stage1Outputs:
    """Outputs of the torch model in evaluation mode, for N images.

    Args:
        net: anywhere.
        images: uint8 `(N, 3, H, W)`.
        precision: of the forward pass; fp32, what a compiled engine is compared with, is exact, and where it is any
            other, products that stay in fp32 may be computed in TF32.
    """
    device = device_of(net)

    def features(start: int, stop: int) -> Tensor:
        return net.features(torch.tensor(images[start:stop]).to(device))

    with lowered(net.backbone, device, precision, frozen=False):
        return answers(net, len(images), features, precision)


@torch.no_grad()
def answers(
    net: Stage1Net,
    count: int,
    features: Callable[[int, int], Tensor],
    precision: Precision = "fp32",
    check: Callable[[], None] = lambda: None,
) -> Stage1Outputs:
    """Outputs in evaluation mode for N rows, wherever their features come from.

    Args:
        net: its heads answer.
        count: N.
        features: features `(stop - start, width)` of rows `start` to `stop`.
        precision: of the forward pass.
        check: called before each batch; may raise.

    Raises:
        torch.OutOfMemoryError: memory is not enough for one row.
    """
    net.eval()
    device = device_of(net)

    def answer(start: int, stop: int) -> Stage1Outputs:
        check()
        with autocast(device, precision):
            return to_numpy(net.outputs(features(start, stop)))

    with nullcontext() if precision == "fp32" else fast_products(device):
        return Stage1Outputs.concatenate(in_fitting_batches(answer, count))


Part = TypeVar("Part")


def in_fitting_batches(make: Callable[[int, int], Part], count: int, size: int | None = None) -> list[Part]:
    """What is made of rows `start` to `stop`, for all of N rows, in batches that memory is enough for.

    Args:
        make: called with start and stop; rows do not depend on those beside them.
        count: N.
        size: rows of a batch, `EVAL_BATCH` if it is None; halved whenever memory is not enough.

    Raises:
        torch.OutOfMemoryError: memory is not enough for one row.
    """
    parts, start, size = list[Part](), 0, size or EVAL_BATCH
    while start < count:
        try:
            parts.append(make(start, min(count, start + size)))
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        else:
            start += size
    return parts


def to_numpy(outputs: NetOutputs) -> Stage1Outputs:
    """The same outputs as an engine gives them."""
    named = {name: logits.detach().float().cpu().numpy() for name, logits in outputs.named.items()}
    logits, score = outputs.logits.detach().float().cpu().numpy(), outputs.select_score.detach().float().cpu().numpy()
    return Stage1Outputs(logits, score, named)


@torch.no_grad()
def features(net: Stage1Net, images: Images) -> Tensor:
    """Features `(N, width)` in evaluation mode, fp32; computed in bf16 on a GPU."""
    net.eval()
    device = device_of(net)

    def some(start: int, stop: int) -> Tensor:
        with autocast(device, "auto"):
            return net.features(torch.tensor(images[start:stop]).to(device)).float()

    with lowered(net.backbone, device, "auto", frozen=False), fast_products(device):
        return torch.cat(in_fitting_batches(some, len(images)))

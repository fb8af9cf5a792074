"""Running an engine over batches of given sizes."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np

from engines.engine import Engine
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, Shape

# Batch sizes that engines are warmed up, checked and captured at. A runtime that takes any size equally well runs what
# lies between as it is.
BUCKETS = (1, 2, 4, 8, 16, 32)
# As many as the pipeline asks at a time.
MOST = 16


def in_batches(engine: Engine, images: Pixels, size: int) -> Stage1Outputs:
    """Outputs of an engine for any number of images, in batches of one size; the last one may be smaller.

    Args:
        engine: any.
        images: uint8 `(N, 3, H, W)`, N at least one.
        size: images of a batch.
    """
    starts = range(0, len(images), size)
    return Stage1Outputs.concatenate([engine.infer(images[start : start + size]) for start in starts])


def buckets(most: int) -> tuple[int, ...]:
    """Batch sizes to try for batches of at most `most` images: the buckets below, and `most` itself."""
    return (*(size for size in BUCKETS if size < most), most)


def bucket_of(count: int, sizes: Sequence[int] = BUCKETS) -> int:
    """The smallest batch size that takes so many images.

    Args:
        count: images of a batch, at least one.
        sizes: batch sizes, ascending.

    Raises:
        ValueError: there are more images than the largest takes.

    Example:
        >>> bucket_of(5)
        8
    """
    place = bisect.bisect_left(sizes, count)
    if place == len(sizes):
        raise ValueError(f"a batch has {sizes[-1]} images at most, not {count}")
    return sizes[place]


def filled_up(batch: Pixels, size: int) -> Pixels:
    """A batch of a given size: the images, and black ones after them.

    Args:
        batch: uint8 `(N, 3, H, W)`, N at most `size`.
        size: images of the batch that is returned.
    """
    filled: Pixels = np.zeros((size, *batch.shape[1:]), np.uint8)
    filled[: len(batch)] = batch
    return filled


def run_at_buckets(engine: Engine, shape: Shape, most: int) -> None:
    """Run an engine once at each bucket up to `most` images.

    Args:
        engine: any.
        shape: height and width of its images, px.
        most: largest batch.
    """
    for size in buckets(most):
        engine.infer(np.zeros((size, 3, *shape), np.uint8))

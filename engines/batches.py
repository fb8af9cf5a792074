"""Running an engine over batches of given sizes."""

from __future__ import annotations

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


def run_at_buckets(engine: Engine, shape: Shape, most: int) -> None:
    """Run an engine once at each bucket up to `most` images.

    Args:
        engine: any.
        shape: height and width of its images, px.
        most: largest batch.
    """
    for size in buckets(most):
        engine.infer(np.zeros((size, 3, *shape), np.uint8))

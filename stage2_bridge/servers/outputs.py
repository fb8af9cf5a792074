"""What the outputs of a classifier or a detector say of one image, as one number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from stage2_bridge.client import Stage2Error


def probability_of(values: NDArray[Any], reads: str) -> float:
    """The probability of roadwork in the output of a classifier for one image.

    Args:
        values: the output, of any shape: one number, or for `logits` two.
        reads: what it is; see `KserveServer.reads`.

    Raises:
        Stage2Error: it has another size, or is no probability.
    """
    wanted = 2 if reads == "logits" else 1
    if values.size != wanted:
        raise Stage2Error(f"the output has the shape {list(values.shape)}, expected {wanted} of one image for {reads}")
    flat = values.ravel().astype(np.float64)
    if not np.isfinite(flat).all():
        raise Stage2Error(f"the output is {flat.tolist()}, which are no finite numbers")
    if reads == "probability":
        if not 0 <= flat[0] <= 1:
            raise Stage2Error(f"the output is {flat[0]:.6g}, which is no probability; is it a logit?")
        return float(flat[0])
    return float(expit(flat[0] if reads == "logit" else flat[1] - flat[0]))


def box_score(scores: NDArray[Any], classes: NDArray[Any], roadwork: Sequence[int], combine: str) -> float:
    """One score for the boxes of one image.

    Args:
        scores: of each box, in [0, 1]; `(K,)`, or with other axes of one.
        classes: of each box, of the same shape.
        roadwork: classes that count.
        combine: `max`, or `noisy_or`: 1 less the product of what is left to 1, for independent boxes.

    Returns:
        In [0, 1]; 0 without a box that counts.

    Raises:
        Stage2Error: the two do not belong together, or a score is none.
    """
    if scores.shape != classes.shape or scores.size not in {0, max(scores.shape, default=0)}:
        raise Stage2Error(
            f"scores have the shape {list(scores.shape)} and classes {list(classes.shape)}, expected one of each a box"
        )
    found = scores.ravel().astype(np.float64)[np.isin(classes.ravel(), roadwork)]
    if not (np.isfinite(found).all() and (found >= 0).all() and (found <= 1).all()):
        raise Stage2Error("the score of a box is not in [0, 1]")
    if not len(found):
        return 0.0
    return float(found.max() if combine == "max" else -math.expm1(np.log1p(-np.minimum(found, 1 - 1e-12)).sum()))


def of_each(outputs: dict[str, NDArray[Any]], count: int) -> list[dict[str, NDArray[Any]]]:
    """The outputs of one call, image by image.

    Args:
        outputs: by name; `(N, ...)` for several images, and of any shape for one.
        count: N, the images of the call.

    Raises:
        Stage2Error: the first axis of one of them does not count the images.
    """
    if count == 1:
        return [outputs]
    for name, values in outputs.items():
        if values.shape[:1] != (count,):
            raise Stage2Error(
                f"{count} images were sent in one call, and the output {name!r} has the shape {list(values.shape)}: "
                "set max_batch = 1"
            )
    return [{name: values[at] for name, values in outputs.items()} for at in range(count)]

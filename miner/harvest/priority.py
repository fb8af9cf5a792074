"""Which images are most worth a label: those that say most about the next certificate, and that differ from each other.

References:
    Carbonell and Goldstein (1998), The use of MMR, diversity-based reranking: the greedy order, with the perceptual
    hash for likeness.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from miner.harvest.kept_image import KeptImage

# Two pictures that have nothing to do with each other differ in half of the 64 bits.
STRANGE_BITS = 32
# Further down the order is that of the worth alone.
DIVERSE_FIRST = 1000


def worth(image: KeptImage, t0: float | None) -> float:
    """What a label is worth for the next certificate: larger is more.

    The certified t0 lies as far as misses let it: whether an image near it is one decides how far the next one reaches.
    So the worth is the chance of roadwork, as far as anybody has told, by how near the score is to t0; the stages'
    disagreement and ambiguity add to it, for they teach wherever they are.

    Args:
        image: without a label.
        t0: the certified threshold, None if there is none.
    """
    said = image.stage2_probability
    roadwork = image.probability if said is None else max(said, image.probability)
    near = 0.5 if t0 is None else 1 / (1 + abs(image.score - t0))
    disagree = bool({"disagree", "contradicted"} & set(image.reasons))
    return near * (0.5 + roadwork) + 0.5 * disagree + 0.25 * bool({"ambiguous", "drift"} & set(image.reasons))


def ordered(images: Iterable[KeptImage], t0: float | None, most: int | None = None) -> list[KeptImage]:
    """Images, the most worth first, each discounted by how much it looks like one that comes before it.

    Args:
        images: without labels.
        t0: the certified threshold, None if there is none.
        most: of them that are returned; None for all.
    """
    found = sorted(images, key=lambda one: (-worth(one, t0), -one.at.timestamp(), one.sha256))
    wanted = len(found) if most is None else min(most, len(found))
    diverse = min(wanted, DIVERSE_FIRST)
    values = np.array([worth(one, t0) for one in found])
    hashes = np.array([one.picture or 0 for one in found], np.uint64)
    blank = np.array([one.picture is None for one in found], np.bool_)
    likeness, left = np.zeros(len(found)), np.ones(len(found), np.bool_)
    first: list[int] = []
    for _ in range(diverse):
        at = int(np.where(left, values * (1 - likeness), -1.0).argmax())
        first.append(at)
        left[at] = False
        if not blank[at]:
            likeness = np.maximum(likeness, np.where(blank, 0.0, _likeness(hashes, hashes[at])))
    rest = np.flatnonzero(left).tolist()
    return [found[at] for at in [*first, *rest][:wanted]]


def few_of_each_place(images: Sequence[KeptImage], most: int) -> list[KeptImage]:
    """The first so many of each place."""
    there: Counter[int] = Counter()
    found = []
    for one in images:
        there[one.site] += 1
        if there[one.site] <= most:
            found.append(one)
    return found


def _likeness(hashes: NDArray[np.uint64], one: np.uint64) -> NDArray[np.float64]:
    """How much pictures look like one of them: 1 the same, 0 nothing in common, `(N,)`."""
    bits = np.bitwise_count(hashes ^ one).astype(np.float64)
    likeness: NDArray[np.float64] = np.maximum(1 - bits / STRANGE_BITS, 0.0)
    return likeness

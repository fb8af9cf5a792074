"""Pictures of a report with the places marked that the network looked at."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from offline.report.thumbnails import QUALITY, SIDE_PX
from stage1.preprocess import Pixels

# Yellow stands out from streets and skies, and marks no class.
MARK = (255, 214, 10)
DIMMED, MARKED = 0.45, 0.75
TOLD = (
    "Below each picture is where the network looked: the brighter and the more yellow a place, the larger its share of "
    "the weight that attention pooling gives. A map says what the answer was made from, not why it is wrong."
)


@dataclass(frozen=True)
class Look:
    """Where the network looked at one picture.

    Attributes:
        picture: a small JPEG, dimmed where it did not look.
        places: number of places that hold half of the weight.
        of: number of places.
    """

    picture: bytes
    places: int
    of: int

    @property
    def caption(self) -> str:
        """How closely it looked, in words."""
        return f"half of the attention on {self.places} of {self.of} places"


def look_at(image: Pixels, weights: NDArray[np.floating]) -> Look:
    """Mark the places of a picture that carry weight.

    Args:
        image: as the engine sees it, uint8 `(3, H, W)`.
        weights: share of each place, `(rows, columns)`, none below 0.
    """
    picture = Image.fromarray(image.transpose(1, 2, 0))
    picture.thumbnail((SIDE_PX, SIDE_PX))
    share = weights / max(float(weights.max()), 1e-12)
    mask = Image.fromarray((255 * share).round().astype(np.uint8)).resize(picture.size, Image.Resampling.BILINEAR)
    strength = np.asarray(mask, np.float64)[..., None] / 255
    dim = np.asarray(picture, np.float64) * (DIMMED + (1 - DIMMED) * strength)
    marked = dim + MARKED / 2 * strength * (np.array(MARK) - dim)
    buffer = io.BytesIO()
    Image.fromarray(marked.round().astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return Look(buffer.getvalue(), places_of_half(weights), weights.size)


def places_of_half(weights: NDArray[np.floating]) -> int:
    """The smallest number of places that hold half of the weight."""
    falling = np.sort(weights.ravel().astype(np.float64))[::-1].cumsum()
    return int(np.searchsorted(falling, falling[-1] / 2)) + 1


def looks_at(images: Mapping[str, Pixels], maps: NDArray[np.floating]) -> dict[str, Look]:
    """Looks at some pictures, by the id of the row.

    Args:
        images: uint8 `(3, H, W)` by id.
        maps: weights in the same order, `(len(images), rows, columns)`.
    """
    return {row: look_at(image, weights) for (row, image), weights in zip(images.items(), maps, strict=True)}

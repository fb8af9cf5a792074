"""Challenges: what validators make of a picture in an era, at a level, and which of them they draw.

At level 0 a picture is cut or barred; at level 1 it is rotated as well, and in January a random square was cut out of
it; levels 2 and 3 add distortions, each at a strength of its own that may be 0. Since May pictures go out whole.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image

from offline.stream.distortions import DISTORTIONS
from offline.stream.geometry import (
    SIDE_PX,
    centre_cut,
    letterbox,
    random_angle,
    random_cut,
    resized,
    rotated_part,
)
from stage1.certificate.stream import ERAS, Era
from stage1.preprocess import Box, Pixels, PreprocessSettings, upright

JPEG_QUALITY = 75
# How often each level is drawn, by era.
LEVEL_SHARES: dict[Era, tuple[float, ...]] = {
    "challenges-2026-01": (0.25, 0.25, 0.25, 0.25),
    "challenges-2026-04": (0.25, 0.25, 0.25, 0.25),
    "challenges-2026-05": (1.0,),
}
# Largest strength of each distortion, in the order of `DISTORTIONS`, by level.
STRENGTHS = ((), (), (1, 1, 1), (2, 2, 2, 2, 2))


@dataclass(frozen=True)
class Cell:
    """An era and a level of it.

    Attributes:
        era: the era.
        level: 0 to 3; 0 in an era without levels.
    """

    era: Era
    level: int

    def __str__(self) -> str:
        return f"{self.era}, level {self.level}" if len(LEVEL_SHARES[self.era]) > 1 else self.era


CELLS = tuple(Cell(era, level) for era in ERAS for level in range(len(LEVEL_SHARES[era])))


def drawn_cell(shares: Mapping[Era, float], rng: np.random.Generator) -> Cell:
    """Draw an era by its share, then a level of it.

    Args:
        shares: of the eras, summing to 1.
        rng: draws it.
    """
    eras = list(shares)
    era = eras[int(rng.choice(len(eras), p=[*shares.values()]))]
    return Cell(era, int(rng.choice(len(LEVEL_SHARES[era]), p=LEVEL_SHARES[era])))


def challenge(picture: Image.Image, cell: Cell, rng: np.random.Generator) -> Image.Image:
    """What a validator makes of a picture, before it is compressed.

    Args:
        picture: RGB, upright, in its own size.
        cell: era and level.
        rng: draws angle, square, strengths and noise.

    Returns:
        RGB, `SIDE_PX` square, or the picture itself in an era that sends it whole.
    """
    match cell.era, cell.level:
        case "challenges-2026-05", _:
            return picture
        case "challenges-2026-01", 0:
            return centre_cut(picture)
        case "challenges-2026-04", 0:
            return letterbox(picture)
        case "challenges-2026-01", _:
            angle = random_angle(rng)
            pixels = resized(rotated_part(picture, angle, random_cut(picture.size, rng)))
        case _:
            whole = Box(0, 0, SIDE_PX, SIDE_PX)
            pixels = np.asarray(rotated_part(letterbox(picture), random_angle(rng), whole))
    return Image.fromarray(_distorted(pixels, STRENGTHS[cell.level], rng))


def _distorted(pixels: Pixels, strongest: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    for distort, most in zip(DISTORTIONS, strongest, strict=False):
        strength = int(rng.integers(most + 1))
        pixels = distort(pixels, strength, rng) if strength else pixels
    return pixels


def sent(content: bytes, cell: Cell, rng: np.random.Generator, settings: PreprocessSettings) -> bytes:
    """The bytes that a validator sends of a picture: JPEG of quality 75 without metadata.

    Args:
        content: an encoded image as it is in the data.
        cell: era and level.
        rng: see `challenge`.
        settings: limits of what is decoded.

    Raises:
        stage1.errors.ImageError: it is no image, or over a limit.
    """
    return as_jpeg(challenge(upright(content, settings), cell, rng))


def as_jpeg(picture: Image.Image) -> bytes:
    """A JPEG as validators write it, by Pillow: other encoders give other bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()

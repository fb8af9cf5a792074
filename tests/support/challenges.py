"""Pictures for the challenges of validators, and challenges of pictures that are in no file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from offline.data.pictures.pixel_store import Images
from offline.stream.challenge import challenge, drawn_cell
from stage1.certificate.stream import era_shares, even_weights
from stage1.preprocess import Pixels


def patches() -> Image.Image:
    """Coloured rectangles, 1280 x 720: as bright, as colourful and as detailed as the picture of the measured table."""
    rng = np.random.default_rng(1)
    picture = Image.new("RGB", (1280, 720), (128, 128, 128))
    draw = ImageDraw.Draw(picture)
    for _ in range(60):
        width, height = rng.integers(100, 400, 2)
        left, top = rng.integers(-width, 1280), rng.integers(-height, 720)
        corners = (int(left), int(top), int(left + width), int(top + height))
        red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
        draw.rectangle(corners, fill=(red, green, blue))
    return picture


def placed(width: int, height: int) -> Image.Image:
    """A picture of at most 256 x 256 whose red says the column and whose green says the row of a pixel; never black."""
    columns, rows = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([columns, rows, np.full_like(rows, 200)], axis=-1).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    """The picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


@dataclass(frozen=True)
class SquareChallenges:
    """What validators make of pictures that are in memory, and squares.

    Attributes:
        images: uint8 `(N, 3, S, S)`.
    """

    images: Images

    @property
    def decides(self) -> tuple[object, ...]:
        return ("squares",)

    def __call__(self, rows: Sequence[int], seeds: Sequence[int]) -> Pixels:
        return np.stack([self._one(row, seed) for row, seed in zip(rows, seeds, strict=True)])

    def _one(self, row: int, seed: int) -> Pixels:
        rng = np.random.default_rng(seed)
        picture = Image.fromarray(self.images[row].transpose(1, 2, 0))
        sent = challenge(picture, drawn_cell(era_shares("mixture", even_weights()), rng), rng)
        square = sent.resize(picture.size, Image.Resampling.BILINEAR)
        return np.ascontiguousarray(np.asarray(square).transpose(2, 0, 1))

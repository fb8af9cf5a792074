"""A small world: pictures whose mean colour says whether roadwork is in them, and how often a rule errs about it.

Red carries the evidence, green says nothing. Everything of a night is drawn from the seed and its number, so that any
process draws the same.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE_PX = 32
COLUMNS = ("image", "label", "group", "source")
EVIDENCE, SPREAD = 26.0, 16.0
GREY = 128.0
FRESH = 60_000
POISONED = 0.35


@dataclass(frozen=True)
class Drawn:
    """Some rows: labels by nature, and mean red and green of each picture, `(N, 2)`."""

    labels: NDArray[np.int8]
    colours: NDArray[np.float64]


def draw(rng: np.random.Generator, count: int) -> Drawn:
    """Rows, half of them with roadwork."""
    labels = (rng.random(count) < 0.5).astype(np.int8)
    red = GREY + EVIDENCE * (2 * labels - 1) + SPREAD * rng.normal(size=count)
    green = GREY + 30 * rng.normal(size=count)
    return Drawn(labels, np.clip(np.stack([red, green], axis=1), 12, 243))


@dataclass
class World:
    """The rows that have come so far, and their pictures on the disk.

    Attributes:
        root: data directory.
        seed: of everything that is drawn.
        first: rows of the first night.
        each: rows that come each night.
        poisoned: nights whose new rows have some labels turned around.
    """

    root: Path
    seed: int
    first: int
    each: int
    poisoned: range
    rows: list[tuple[str, int]] = field(default_factory=list)

    def grow(self, night: int) -> None:
        """Have the rows of a night come; a picture that is there already is not written again."""
        (self.root / "images").mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([self.seed, night])
        drawn = draw(rng, self.each if night else self.first)
        texture = rng.integers(-14, 15, (len(drawn.labels), 8, 8, 3))
        turned = rng.random(len(drawn.labels)) < POISONED
        for place, (label, (red, green)) in enumerate(zip(drawn.labels.tolist(), drawn.colours, strict=True)):
            name = f"images/{night:03d}-{place:04d}.png"
            if not (self.root / name).exists():
                grain = texture[place] - texture[place].mean(axis=(0, 1))
                picture = np.clip(np.array([red, green, 255 - red]) + grain, 0, 255).astype(np.uint8)
                Image.fromarray(picture).resize((SIDE_PX, SIDE_PX), Image.Resampling.NEAREST).save(self.root / name)
            said = 1 - label if night in self.poisoned and turned[place] else label
            self.rows.append((name, said))
        with (self.root / "labels.csv").open("w", newline="") as handle:
            writer = csv.writer(handle)
            writer.writerow(COLUMNS)
            writer.writerows((name, label, name, "street") for name, label in self.rows)


def true_labels_and_colours(seed: int) -> Drawn:
    """Fresh rows by which a certificate is judged."""
    return draw(np.random.default_rng([seed, 10**6]), FRESH)

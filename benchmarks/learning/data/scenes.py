"""Scenes that are drawn large, so that what a geometry shows of small things can be seen; one fold, split by scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.learning.data.task import PARTS, Task, in_parts
from offline.data.dataset import Dataset
from offline.data.sources.labels_csv import LABELS_FILE
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import HEIGHT, write_scenes

SEED, UNLABELLED_SEED = 12, 11


@dataclass(frozen=True)
class SceneSizes:
    """How many scenes are drawn, and how.

    Attributes:
        scenes: for train, val_select, val_calib and test; about 1.25 frames each.
        unlabelled: scenes that domain adaptation sees.
        scale: pictures are so many times 320 x 240 px.
        difficulty: 0 (near, bright, dry) to 1 (far, dark, wet, half hidden).
    """

    scenes: tuple[int, int, int, int] = (240, 160, 360, 320)
    unlabelled: int = 400
    scale: int = 3
    difficulty: float = 0.5


def scenes(home: Path, sizes: SceneSizes) -> Task:
    """The task of the scenes; they are drawn once.

    Args:
        home: where they are kept.
        sizes: how many, and how large.
    """
    name = f"scenes_{'_'.join(map(str, sizes.scenes))}_x{sizes.scale}_d{sizes.difficulty:g}"
    data = _drawn(home / name, sum(sizes.scenes), SEED, sizes.difficulty, sizes.scale)
    numbers = [int(row.group.rsplit("_", 1)[-1]) for row in data.rows]
    places = np.searchsorted(np.cumsum(sizes.scenes), numbers, side="right").tolist()
    parts = {row.image: PARTS[place] for row, place in zip(data.rows, places, strict=True)}

    def unlabelled() -> Dataset:
        other = home / f"unlabelled_{sizes.unlabelled}_d{sizes.difficulty:g}"
        return _drawn(other, sizes.unlabelled, UNLABELLED_SEED, sizes.difficulty, 1)

    return Task(
        name="scenes",
        title=f"scenes drawn at {sizes.scale * HEIGHT} px",
        folds=(in_parts(data, parts),),
        unlabelled=unlabelled,
        native_height_px=sizes.scale * HEIGHT,
    )


def _drawn(directory: Path, count: int, seed: int, difficulty: float, scale: int) -> Dataset:
    if not (directory / LABELS_FILE).exists():
        for _ in write_scenes(directory, scenes=count, seed=seed, difficulty=difficulty, scale=scale):
            pass
    return read_dataset(directory)

"""Plain pictures: the redder and the less blue one is, the likelier is roadwork in it; green says nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from offline.data.dataset import Dataset, Row

MEAN = 60
SPREAD = 30
LEAST = 5


def red_and_blue(root: Path, count: int, *, clear: bool) -> Dataset:
    """One picture a group, every second one with roadwork, in two cities.

    Args:
        root: where the pictures are written.
        count: how many.
        clear: the engine of `write_onnx` is right about all of them; otherwise it errs about a few.
    """
    rng = np.random.default_rng(0)
    rows = []
    for number in range(count):
        label = number % 2
        away = rng.normal(MEAN, SPREAD)
        red = int(np.clip(128 + (1 if label else -1) * (max(away, LEAST) if clear else away), 0, 255))
        Image.new("RGB", (32, 32), (red, int(rng.integers(0, 256)), 255 - red)).save(root / f"{number}.png")
        city = "ab"[number % 4 // 2]
        rows.append(Row(image=f"{number}.png", label=label, group=str(number), metadata={"city": city}))
    return Dataset(root, tuple(rows))

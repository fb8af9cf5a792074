"""A small data directory of drawn scenes."""

from __future__ import annotations

import csv
from pathlib import Path

from PIL import Image

from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.synthetic_streets import draw_frame


def scene_picture(number: int) -> Image.Image:
    """The picture of one of them."""
    return draw_frame(plan_scene(number, seed=1, difficulty=0.1), 0)


def write_labelled_scenes(data: Path, scenes: int) -> None:
    """Write `labels.csv` and `images/`, one frame of each scene, each scene a group of its own."""
    (data / "images").mkdir(parents=True)
    with (data / "labels.csv").open("w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image", "label", "group"])
        for number in range(scenes):
            scene_picture(number).save(data / "images" / f"{number}.jpg", quality=85)
            writer.writerow([f"images/{number}.jpg", plan_scene(number, seed=1, difficulty=0.1).label, number])

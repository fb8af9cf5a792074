"""What callers send: streets by day and by night, and what each picture shows."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from offline.data.sources.scene_plan import plan_scene
from offline.data.sources.synthetic_streets import JPEG_QUALITY, draw_frame
from tests.support.stage2_servers import Fake, Handler, classifier

DIFFICULTY = 0.15
# Of cold lamps: what they leave of colours, how much brighter it is than in the beam of a car, and their tint.
COLOUR, GAIN, TINT = 0.5, 1.6, (0.9, 1.0, 1.12)


def under_lamps(picture: Image.Image) -> Image.Image:
    """A street at night under lamps, in whose light colours fade."""
    bright = ImageEnhance.Color(ImageEnhance.Brightness(picture).enhance(GAIN)).enhance(COLOUR)
    return Image.fromarray(np.clip(np.asarray(bright) * np.asarray(TINT), 0, 255).astype(np.uint8))


def _picture(task: tuple[int, int, str]) -> tuple[bytes, int]:
    seed, index, daytime = task
    scene = replace(plan_scene(index, seed=seed, difficulty=DIFFICULTY), daytime=daytime)
    picture = draw_frame(scene, 0)
    if daytime == "night":
        picture = under_lamps(picture)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue(), scene.label


@dataclass
class World:
    """What pictures show; the script knows it, and the miner does not.

    Attributes:
        truth: 1 for roadwork, by the hash of the picture's file.
    """

    truth: dict[str, int] = field(default_factory=dict)

    def draw(self, daytime: str, count: int, seed: int) -> list[bytes]:
        """So many scenes, a picture each."""
        tasks = [(seed, index, daytime) for index in range(count)]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            drawn = list(pool.map(_picture, tasks, chunksize=16))
        self.truth |= {hashlib.sha256(content).hexdigest(): label for content, label in drawn}
        return [content for content, _ in drawn]

    def shows(self, content: bytes) -> int:
        """1 if roadwork is in it."""
        return self.truth[hashlib.sha256(content).hexdigest()]

    def roadwork(self, pictures: Sequence[bytes]) -> int:
        """How many of them show it."""
        return sum(self.shows(one) for one in pictures)


def verdict(world: World, content: bytes, sensitivity: float, specificity: float) -> float:
    """The probability that a Stage-2 gives which is right about so many pictures; about which, the picture decides."""
    digest = hashlib.sha256(content)
    label = world.truth.get(digest.hexdigest(), 0)
    right = digest.digest()[0] / 256 < (sensitivity if label else specificity)
    return 0.9 if bool(label) == right else 0.1


def stage2(world: World, sensitivity: float, specificity: float) -> Fake:
    """That Stage-2 as a server of the Open Inference Protocol."""

    def answer(content: bytes) -> dict[str, NDArray[np.float32]]:
        return {"probability": np.asarray([verdict(world, content, sensitivity, specificity)], np.float32)}

    handler: Handler = classifier(answer)
    return Fake(handler)

"""Table b: synthetic scenes. The backbone saw unlabelled ones of domain A; trained and judged is on domain B.

Domain B is the same kind of street under a blue cast, in haze, with less light and a noisy sensor.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.learning.arena import Arena, Fold, Workplace
from benchmarks.learning.scale import FALSE_ALARMS, STRICT
from offline.data.dataset import Dataset
from offline.data.sources.source import read_dataset
from offline.data.sources.synthetic_streets import write_scenes
from stage1.certificate.settings import CalibrationSettings
from stage1.preprocess import Pixels, PreprocessSettings

SIZE_PX = 96
SEED_A, SEED_B = 11, 12
DIFFICULTY = 0.25
CAST = (0.60, 0.70, 1.0)
AIR = (120.0, 130.0, 150.0)


def arena(place: Workplace) -> Arena:
    """Rows and the one fold of domain B."""
    data = read_dataset(_scenes(place, "b"))
    numbers = np.asarray([int(row.group.rsplit("_", 1)[-1]) for row in data.rows])
    part = np.searchsorted(np.cumsum(place.scale.scenes), numbers, side="right")
    train, val_select, calib, test = (np.flatnonzero(part == i) for i in range(4))
    return Arena(
        data=data,
        folds=(Fold("all", train, val_select, np.concatenate([calib, test])),),
        test=test,
        calib=calib,
        size_px=SIZE_PX,
        pixels=place.path("b", "pixels_b.npy"),
        calibration=CalibrationSettings(alpha=STRICT, false_alarm_rate=FALSE_ALARMS),
    )


def _scenes(place: Workplace, domain: str) -> Path:
    return place.path("b", f"scenes_{domain}")


def draw(place: Workplace) -> None:
    """Draw both domains and keep their pixels."""
    for domain, seed, count in (
        ("a", SEED_A, place.scale.pretraining_scenes),
        ("b", SEED_B, sum(place.scale.scenes)),
    ):
        directory = _scenes(place, domain)
        for _ in write_scenes(directory, scenes=count, seed=seed, difficulty=DIFFICULTY):
            pass
        images = _pixels(read_dataset(directory))
        np.save(place.path("b", f"pixels_{domain}.npy"), images if domain == "a" else shifted(images, seed))


def _pixels(data: Dataset) -> Pixels:
    return data.array(PreprocessSettings(size_px=SIZE_PX))


def shifted(images: Pixels, seed: int) -> Pixels:
    """The same scenes as domain B sees them.

    Args:
        images: uint8 `(N, 3, S, S)`.
        seed: with the number of the image, of haze, light and noise.
    """
    out = np.empty_like(images)
    cast, air = (np.reshape(colour, (3, 1, 1)) for colour in (CAST, AIR))
    for number, image in enumerate(images):
        rng = np.random.default_rng((seed, number))
        haze, light, noise = rng.uniform(0.25, 0.45), rng.uniform(0.6, 0.95), rng.uniform(5, 11)
        seen = light * cast * ((1 - haze) * image + haze * air) + rng.normal(0, noise, image.shape)
        out[number] = np.clip(seen, 0, 255).astype(np.uint8)
    return out

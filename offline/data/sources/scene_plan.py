"""What a synthetic street scene shows, decided before anything is drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scene:
    """What is drawn, decided before anything is drawn.

    Attributes:
        name: scene id, the group of all its frames.
        label: 1 if roadwork is in the scene.
        daytime: `day` or `night`.
        weather: `clear` or `rain`.
        depth: distance of the nearest roadwork object; 1 is at the bumper, 9 is near the horizon.
        hidden: share of the roadwork that a parked vehicle hides, in [0, 1].
        frames: number of frames of this scene.
        seed: seed of everything else in the picture.
        scale: the picture is so many times 320 x 240 px. The scene is the same; noise and rain are drawn anew.
    """

    name: str
    label: int
    daytime: str
    weather: str
    depth: float
    hidden: float
    frames: int
    seed: tuple[int, int]
    scale: int = 1

    @property
    def visibility(self) -> float:
        """How easy the roadwork is to see, in (0, 1]: near, by day, dry and unhidden is 1."""
        dimmed = (0.6 if self.daytime == "night" else 1.0) * (0.8 if self.weather == "rain" else 1.0)
        return float(np.clip(2.2 / self.depth, 0.05, 1.0) * (1 - 0.8 * self.hidden) * dimmed)


def plan_scene(index: int, *, seed: int, difficulty: float, scale: int = 1) -> Scene:
    """Decide what scene number `index` shows.

    Args:
        index: number of the scene, from 0.
        seed: seed of the whole set.
        difficulty: 0 (near, bright, dry) to 1 (far, dark, wet, half hidden).
        scale: see `Scene`.
    """
    rng = np.random.default_rng((seed, index))
    label = int(rng.random() < 0.5)
    far = 1.4 + 1.2 * rng.random() + 6.0 * difficulty * rng.beta(1.0, 3.0)
    hidden = 0.7 * rng.random() if rng.random() < 0.5 * difficulty else 0.0
    return Scene(
        name=f"synthetic_{seed}_{index:05d}",
        label=label,
        daytime="night" if rng.random() < 0.10 + 0.3 * difficulty else "day",
        weather="rain" if rng.random() < 0.10 + 0.3 * difficulty else "clear",
        depth=float(far),
        hidden=float(hidden),
        frames=2 if rng.random() < 0.25 else 1,
        seed=(seed, index),
        scale=scale,
    )

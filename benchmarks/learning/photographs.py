"""Table a: dashcam photographs of cities, one held out at a time, with ordinary streets of other sources beside them.

Only rows of the cities test. All roadwork is in the cities, so pooled with the other sources a rule that looks at the
source alone would seem to work; they train, and a share of them, by group, chooses.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.learning.arena import Arena, Fold, Workplace, thinned
from benchmarks.learning.scale import FALSE_ALARMS, LOOSE, Scale
from offline.data.dataset import Dataset, Row
from offline.data.sources.source import read_dataset
from stage1.certificate.settings import CalibrationSettings

CITIES = "roadwork_clips"
SELECTING_CITIES = 2
OTHER_SHARES = 4
SIZES = {"whole_224": 224, "whole_448": 448, "quadrants_448": 448}


def arena(place: Workplace) -> Arena:
    """Rows and folds of the photographs."""
    data = _rows(read_dataset(Path(place.photographs)), place.scale)
    cities = _cities(data)
    return Arena(
        data=data,
        folds=tuple(_fold(data, cities, held, place.scale) for held in range(len(cities))),
        test=np.flatnonzero([row.source == CITIES for row in data.rows]),
        calib=np.empty(0, np.intp),
        size_px=224,
        pixels=pixels(place, 224),
        # By rows: one frame of each of two cities could not tell checkpoints apart.
        calibration=CalibrationSettings(alpha=LOOSE, unit="row", false_alarm_rate=FALSE_ALARMS),
    )


def pixels(place: Workplace, size_px: int) -> Path:
    """Where the images of one size are."""
    return place.path("a", f"pixels_{size_px}.npy")


def _cities(data: Dataset) -> list[str]:
    return sorted({row.group for row in data.rows if row.source == CITIES})


def _rows(data: Dataset, scale: Scale) -> Dataset:
    """The cities and an even share of the other sources."""
    chosen: list[Row] = []
    for city in _cities(data)[: scale.cities]:
        for label in (0, 1):
            frames = [i for i, row in enumerate(data.rows) if row.group == city and row.label == label]
            chosen += [data.rows[i] for i in thinned(frames, scale.city_rows)]
    others = [i for i, row in enumerate(data.rows) if row.source != CITIES]
    chosen += [data.rows[i] for i in thinned(others, scale.other_negatives)]
    return Dataset(data.root, tuple(chosen))


def _fold(data: Dataset, cities: list[str], held: int, scale: Scale) -> Fold:
    selecting = {cities[(held + 1 + i) % len(cities)] for i in range(min(SELECTING_CITIES, len(cities) - 2))}
    others = sorted({row.group for row in data.rows if row.source != CITIES})
    selecting |= {group for i, group in enumerate(others) if (i + held) % OTHER_SHARES == 0}
    of_group: dict[tuple[str, int], list[int]] = {}
    for i, row in enumerate(data.rows):
        of_group.setdefault((row.group, row.label), []).append(i)
    train = [
        i
        for (group, label), rows in of_group.items()
        if group not in selecting and group != cities[held]
        for i in thinned(rows, scale.training_frames if label else len(rows))
    ]
    groups = np.asarray(data.groups)
    return Fold(
        name=cities[held].rsplit(":", 1)[-1],
        train=np.asarray(sorted(train), np.intp),
        val_select=np.flatnonzero(np.isin(groups, sorted(selecting))),
        held=np.flatnonzero(groups == cities[held]),
    )

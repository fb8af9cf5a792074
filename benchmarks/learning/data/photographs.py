"""Dashcam photographs of cities in four folds, with ordinary streets of other sources beside them.

Only frames of the cities are reported on. All roadwork is in the cities, so pooled with the other sources a rule that
looks at the source alone would seem to work; they train, and a share of them, by group, chooses checkpoints.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.learning.data.task import Task, in_parts
from offline.data.dataset import Dataset, Row
from offline.data.sources.source import read_dataset
from offline.splits.settings import Split

CITIES = "roadwork_clips"
FOLDS = 4
NATIVE_HEIGHT_PX = 256


@dataclass(frozen=True)
class PhotographSizes:
    """How many rows train; all frames of the held cities are answered.

    Attributes:
        city_frames: frames of one class of a city that train or choose at most, evenly apart, for frames of a clip are
            alike.
        other_frames: frames of other sources that train at most.
        other_select: frames of other sources that choose at most.
    """

    city_frames: int = 10
    other_frames: int = 70
    other_select: int = 30


def photographs(directory: Path, sizes: PhotographSizes) -> Task:
    """The task of the photographs.

    Args:
        directory: with `labels.csv`, whose groups are cities in the source `roadwork_clips`.
        sizes: how many rows train.
    """
    data = read_dataset(directory)
    groups = city_folds(data)

    def unlabelled() -> Dataset:
        return Dataset(data.root, tuple(row for row in data.rows if row.source != CITIES))

    return Task(
        name="photographs",
        title="photographs, cities held out in four folds",
        folds=tuple(in_parts(data, _parts(data, groups, held, sizes)) for held in range(len(groups))),
        unlabelled=unlabelled,
        native_height_px=NATIVE_HEIGHT_PX,
    )


def city_folds(data: Dataset) -> tuple[tuple[str, ...], ...]:
    """The cities in four folds that share negatives, of which there are few, and then positives evenly."""
    count = Counter((row.group, row.label) for row in data.rows if row.source == CITIES)
    cities = sorted({city for city, _ in count}, key=lambda city: (-count[city, 0], -count[city, 1], city))
    folds: list[list[str]] = [[] for _ in range(min(FOLDS, len(cities)))]
    for city in cities:
        rare = 0 if count[city, 0] else 1
        min(folds, key=lambda fold: (sum(count[each, rare] for each in fold), len(fold))).append(city)
    return tuple(tuple(fold) for fold in folds)


def _parts(data: Dataset, groups: Sequence[Sequence[str]], held: int, sizes: PhotographSizes) -> dict[str, Split]:
    """Set of each row that a fold uses. The first and the last city of the next fold choose."""
    after = groups[(held + 1) % len(groups)]
    selecting = {after[0], after[-1]}
    others = sorted({row.group for row in data.rows if row.source != CITIES})
    other_select = {group for place, group in enumerate(others) if place % FOLDS == held}
    parts: dict[str, Split] = {}
    by_city: dict[tuple[str, int], list[Row]] = {}
    train_others, select_others = list[Row](), list[Row]()
    for row in data.rows:
        if row.source != CITIES:
            (select_others if row.group in other_select else train_others).append(row)
        elif row.group in groups[held]:
            parts[row.image] = "test"
        else:
            by_city.setdefault((row.group, row.label), []).append(row)
    parts |= dict.fromkeys((row.image for row in thinned(select_others, sizes.other_select)), "val_select")
    parts |= dict.fromkeys((row.image for row in thinned(train_others, sizes.other_frames)), "train")
    for (city, _), rows in by_city.items():
        part: Split = "val_select" if city in selecting else "train"
        parts |= dict.fromkeys((row.image for row in thinned(rows, sizes.city_frames)), part)
    return parts


def thinned(rows: Sequence[Row], most: int) -> list[Row]:
    """At most so many of the rows, evenly apart."""
    if len(rows) <= most:
        return list(rows)
    return [rows[i] for i in np.linspace(0, len(rows) - 1, most).round().astype(int).tolist()]

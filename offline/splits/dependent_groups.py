"""Which rows depend on each other: the connected components of everything that two rows can have in common.

Rows are joined if they have the same declared group, or the same video or sequence id within one source, or were taken
in the same place within minutes, or show roadwork in the same place within weeks, or look the same. A row without such
metadata is joined by its looks and its declared group alone; in particular a place without a time joins nothing,
because a city is driven through again and again and its streets would chain into one group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise, product

import numpy as np

from offline.data.checks.likeness import Likeness
from offline.data.checks.near_hashes import Places
from offline.data.checks.perceptual_hash import join
from offline.data.dataset import Row
from offline.data.place_and_time import Fix, read_fix
from offline.splits.settings import SplitSettings

EARTH_RADIUS_M = 6_371_000.0
MINUTE_S = 60.0
DAY_S = 86_400.0
# Each moved by half a cell, so that no two places within half a cell lie on two sides of every border.
GRIDS = tuple(product((0.0, 0.5), repeat=2))


def components(
    rows: Sequence[Row],
    likeness: Likeness,
    settings: SplitSettings,
    also: Mapping[str, str] | None = None,
    contents: Mapping[str, str] | None = None,
) -> list[list[Row]]:
    """The groups of rows that depend on each other.

    Args:
        rows: N rows.
        likeness: of these rows and perhaps of others.
        settings: what else joins two rows.
        also: a further group of some rows, by row id; it stands beside the declared one, with the same names.
        contents: hash of the file of some rows, by row id; rows with the same file are one thing.

    Returns:
        The components, each sorted by row id, sorted by their first row id: the same for any order of `rows`.

    Raises:
        DatasetError: an id, a place or a time cannot be read.
    """
    ordered = sorted(rows, key=lambda row: row.image)
    labels: Places = np.arange(len(ordered))
    known = contents or {}
    files: list[list[object]] = [[known[row.image]] if row.image in known else [] for row in ordered]
    for key in (files, *_names(ordered, settings, also or {})):
        labels = _join_equal(labels, key)
    if settings.gps_cell_m is not None:
        labels = _join_fixes(labels, ordered, settings.gps_cell_m, settings)
    labels = likeness.join(labels, [row.image for row in ordered])
    found: dict[int, list[Row]] = {}
    for row, label in zip(ordered, labels.tolist(), strict=True):
        found.setdefault(label, []).append(row)
    return list(found.values())


def _names(rows: list[Row], settings: SplitSettings, also: Mapping[str, str]) -> list[list[list[object]]]:
    """Columns of keys for `_join_equal`."""
    declared: list[list[object]] = [[row.group, *([also[row.image]] if row.image in also else [])] for row in rows]
    sequences: list[list[list[object]]] = [
        # Two sources may both count their videos from 1.
        [[(row.source, value)] if (value := row.sequence(column)) else [] for row in rows]
        for column in settings.sequence_columns
    ]
    return [declared, *sequences]


def _join_equal(labels: Places, keys: list[list[object]]) -> Places:
    """Join items that share a key; an item has any number of them."""
    first: dict[object, int] = {}
    pairs = [(first.setdefault(key, index), index) for index, own in enumerate(keys) for key in own]
    return _join_pairs(labels, pairs)


def _join_pairs(labels: Places, pairs: list[tuple[int, int]]) -> Places:
    linked = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    return join(labels, linked[:, 0], linked[:, 1])


def _join_fixes(labels: Places, rows: list[Row], cell_m: float, settings: SplitSettings) -> Places:
    """Join items of the same cell within minutes, and those with roadwork within weeks."""
    known = [(index, fix) for index, fix in enumerate(map(read_fix, rows)) if fix is not None]
    fixes = [(index, side, side.at) for index, fix in known for side in fix.on_both_sides() if side.at is not None]
    labels = _join_places(labels, fixes, cell_m, MINUTE_S * settings.gps_minutes)
    if settings.roadwork_days is None:
        return labels
    roadwork = [timed for timed in fixes if rows[timed[0]].label == 1]
    return _join_places(labels, roadwork, cell_m, DAY_S * settings.roadwork_days)


def _join_places(labels: Places, fixes: list[tuple[int, Fix, float]], cell_m: float, seconds: float) -> Places:
    """Join items of the same cell with less than so much time between them: index, place and time of each."""
    for down, right in GRIDS:
        in_order = sorted((_cell(fix, cell_m, down, right), at, index) for index, fix, at in fixes)
        # In order of time, who is near anybody before is near the last one before.
        labels = _join_pairs(
            labels,
            [
                (before, index)
                for (cell, earlier, before), (other, later, index) in pairwise(in_order)
                if cell == other and later - earlier < seconds
            ],
        )
    return labels


def cells_of(fix: Fix, cell_m: float) -> tuple[tuple[int, int, int], ...]:
    """The cells of a place: number of the grid, then its band and its column; that of the first grid comes first.

    Args:
        fix: the place.
        cell_m: side of a cell, metres.
    """
    return tuple((number, *_cell(fix, cell_m, *offsets)) for number, offsets in enumerate(GRIDS))


def _cell(fix: Fix, cell_m: float, down: float, right: float) -> tuple[int, int]:
    degree_m = EARTH_RADIUS_M * math.pi / 180
    band = math.floor(fix.latitude * degree_m / cell_m + down)
    # The width of a degree in the middle of the band, the same for all of its cells.
    width_m = degree_m * math.cos(math.radians((band + 0.5 - down) * cell_m / degree_m))
    return band, math.floor(fix.longitude * width_m / cell_m + right)

"""Which rows depend on each other: the connected components of everything that two rows can have in common.

Rows are joined if they have the same declared group, or the same video or sequence id within one source, or were taken
in the same place within minutes, or look the same. A row without such metadata is joined by its looks and its declared
group alone; in particular a place without a time joins nothing, because a city is driven through again and again and
its streets would chain into one group.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise, product

import numpy as np

from offline.data.checks.near_hashes import Places
from offline.data.checks.perceptual_hash import join, join_near, words_of
from offline.data.dataset import Row
from offline.errors import DatasetError
from offline.splits.settings import SplitSettings

EARTH_RADIUS_M = 6_371_000.0


@dataclass(frozen=True)
class Fix:
    """Where and when a picture was taken.

    Attributes:
        latitude: degrees north, -90 to 90.
        longitude: degrees east, -180 to 180.
        at: seconds since 1970, UTC; None if unknown.
    """

    latitude: float
    longitude: float
    at: float | None


def components(
    rows: Sequence[Row],
    hashes: Mapping[str, str | None],
    settings: SplitSettings,
    also: Mapping[str, str] | None = None,
) -> list[list[Row]]:
    """The groups of rows that depend on each other.

    Args:
        rows: N rows.
        hashes: perceptual hash of each row by its id; None for a blank picture, which looks like nothing else.
        settings: what joins two rows.
        also: a further group of some rows, by row id; it stands beside the declared one, with the same names.

    Returns:
        The components, each sorted by row id, sorted by their first row id: the same for any order of `rows`.

    Raises:
        DatasetError: a place or a time cannot be read.
    """
    ordered = sorted(rows, key=lambda row: row.image)
    labels: Places = np.arange(len(ordered))
    for key in _names(ordered, settings, also or {}):
        labels = _join_equal(labels, key)
    if settings.gps_cell_m is not None:
        labels = _join_places(labels, ordered, settings.gps_cell_m, 60 * settings.gps_minutes)
    if settings.hash_distance is not None:
        labels = _join_looks(labels, [hashes[row.image] for row in ordered], settings.hash_distance)
    found: dict[int, list[Row]] = {}
    for row, label in zip(ordered, labels.tolist(), strict=True):
        found.setdefault(label, []).append(row)
    return list(found.values())


def _names(rows: list[Row], settings: SplitSettings, also: Mapping[str, str]) -> list[list[list[object]]]:
    """Columns of keys for `_join_equal`."""
    declared: list[list[object]] = [[row.group, *([also[row.image]] if row.image in also else [])] for row in rows]
    sequences: list[list[list[object]]] = [
        # Two sources may both count their videos from 1.
        [[(row.source, value)] if (value := row.about(column)) else [] for row in rows]
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


def _join_looks(labels: Places, hashes: list[str | None], limit: int) -> Places:
    """Join items whose hashes are near; equal hashes are compared once."""
    labels = _join_equal(labels, [[] if digest is None else [digest] for digest in hashes])
    first: dict[str, int] = {}
    for index, digest in enumerate(hashes):
        if digest is not None:
            first.setdefault(digest, index)
    if not first:
        return labels
    places = np.asarray(list(first.values()), dtype=np.intp)
    return join_near(labels, places, words_of(list(first)), limit)


def _join_places(labels: Places, rows: list[Row], cell_m: float, seconds: float) -> Places:
    """Join items of the same cell with less than so much time between them.

    Four grids, each moved by half a cell, so that no two places within half a cell lie on two sides of every border.
    """
    fixes = [(index, fix, fix.at) for index, fix in enumerate(map(read_fix, rows)) if fix and fix.at is not None]
    for down, right in product((0.0, 0.5), repeat=2):
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


def _cell(fix: Fix, cell_m: float, down: float, right: float) -> tuple[int, int]:
    degree_m = EARTH_RADIUS_M * math.pi / 180
    band = math.floor(fix.latitude * degree_m / cell_m + down)
    # The width of a degree in the middle of the band, the same for all of its cells.
    width_m = degree_m * math.cos(math.radians((band + 0.5 - down) * cell_m / degree_m))
    return band, math.floor(fix.longitude * width_m / cell_m + right)


def read_fix(row: Row) -> Fix | None:
    """Where and when a row was taken: columns `gps` ("lat,lon") or `lat` and `lon`, and `timestamp`.

    Returns:
        None if the row does not say where.

    Raises:
        DatasetError: it says something that is not a place or a time.
    """
    at, gps, lat, lon = (row.about(column) for column in ("timestamp", "gps", "lat", "lon"))
    time = None if at is None else _time(row, at)
    place = gps if gps is not None else None if lat is None and lon is None else f"{lat or ''},{lon or ''}"
    if place is None:
        return None
    try:
        latitude, longitude = (float(part) for part in place.strip("()[] ").split(","))
    except ValueError as error:
        raise DatasetError(f"row {row.image!r}: the place is {place!r}, expected degrees as 'lat,lon'") from error
    if not (abs(latitude) <= 90 and abs(longitude) <= 180):
        raise DatasetError(f"row {row.image!r}: the place {place!r} is not on Earth; expected degrees as 'lat,lon'")
    return Fix(latitude, longitude, time)


def _time(row: Row, text: str) -> float:
    """Seconds since 1970 of an ISO 8601 time (UTC if it names no zone) or of the number itself."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as error:
            raise DatasetError(
                f"row {row.image!r}: the timestamp is {text!r}, expected ISO 8601 or seconds since 1970"
            ) from error
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(seconds):
        raise DatasetError(f"row {row.image!r}: the timestamp is {text!r}, expected ISO 8601 or seconds since 1970")
    return seconds

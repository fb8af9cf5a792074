"""Where and when a picture was taken, as the exports of cameras, maps and annotation tools write it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from offline.data.dataset import Row
from offline.data.values import number, rounded_to, said
from offline.errors import DatasetError

PLACE_COLUMNS = ("gps",)
LATITUDE_COLUMNS = ("lat", "latitude")
LONGITUDE_COLUMNS = ("lon", "lng", "longitude")
# GeoJSON and WKT put the longitude first (RFC 7946, section 3.1.1; OGC 06-103r4).
POINT_COLUMNS = ("geometry.coordinates", "computed_geometry.coordinates", "geometry", "computed_geometry")
TIME_COLUMNS = ("timestamp", "captured_at")

# Nobody has pictures of streets from before. The units of a number overlap for no time between these two.
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
# A clock may be a little ahead, not more.
MOST_AHEAD = timedelta(days=366)
UNITS_PER_S = (1, 1_000, 1_000_000, 1_000_000_000)
NOWHERE_DEG = 1e-6
NEAR_MERIDIAN_DEG = 179.0

# Two numbers, and perhaps a height, in the one pair of brackets that there is.
_POINT = re.compile(r"[^\[(]*[\[(]\s*([^\s,\[(]+)[\s,]+([^\s,\])]+)(?:[\s,]+[^\s,\])]+)?\s*[\])][^\[(]*")
# 20240501105959, 2024:05:01 10:59:59 of EXIF, 2024_05_01_10_59_59_123 of mapillary_tools.
_DIGITS = re.compile(
    r"(\d{4})[-:_/.]?(\d{2})[-:_/.]?(\d{2})(?:[T _-]?(\d{2})[-:_.]?(\d{2})(?:[-:_.]?(\d{2})(?:[.,_]?(\d{1,6}))?)?)?"
)
EXPECTED = (
    "expected ISO 8601, YYYYMMDDhhmmss, or seconds, milliseconds, microseconds or nanoseconds since 1970, and no time "
    "before 1990; mend it, or rename the column if it does not say when the picture was taken"
)


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

    def on_both_sides(self) -> tuple[Fix, ...]:
        """The place, and near the 180th meridian the same one counted from its other side, beyond 180 degrees."""
        if abs(self.longitude) < NEAR_MERIDIAN_DEG:
            return (self,)
        return self, replace(self, longitude=self.longitude - math.copysign(360, self.longitude))


def read_fix(row: Row) -> Fix | None:
    """Where and when a row was taken.

    The place is in `gps` ("lat,lon"), in a column for each of latitude and longitude, or a point in GeoJSON or WKT; the
    time is in `timestamp` or `captured_at`. A dotted name, as `video_info.gps`, does as well.

    Returns:
        None if the row does not say where; 0,0 is what a receiver without a fix writes, and no place.

    Raises:
        DatasetError: it says something that is not a place or a time; the message names the row.
    """
    found = _place(row)
    if found is None or max(map(abs, found)) < NOWHERE_DEG:
        return None
    latitude, longitude = found
    at = _first(row, TIME_COLUMNS)
    return Fix(latitude, longitude, None if at is None else _time(row, at))


def taken_at(row: Row) -> float | None:
    """When a row was taken, seconds since 1970, UTC; None where it does not say, or not so that it can be read."""
    try:
        text = _first(row, TIME_COLUMNS)
        return None if text is None else _time(row, text)
    except DatasetError:
        return None


def check_fixes(rows: Iterable[Row], now: datetime) -> None:
    """Refuse places and times that cannot be read, and times that are still to come.

    Args:
        rows: the rows.
        now: wall-clock time, UTC.

    Raises:
        DatasetError: a row has one; names it.
    """
    latest = (now + MOST_AHEAD).timestamp()
    for row in rows:
        fix = read_fix(row)
        if fix is not None and fix.at is not None and fix.at > latest:
            moment = datetime.fromtimestamp(fix.at, UTC).date()
            raise DatasetError(
                f"row {row.image!r}: the timestamp {_first(row, TIME_COLUMNS)!r} means {moment}, which is more than a "
                f"year after today; {EXPECTED}"
            )


def _first(row: Row, columns: Iterable[str]) -> str | None:
    return next((text for column in columns if (text := row.about(column)) is not None), None)


def _place(row: Row) -> tuple[float, float] | None:
    """Latitude and longitude."""
    gps = _first(row, PLACE_COLUMNS)
    if gps is not None:
        return _degrees(row, gps, _halves(gps))
    latitude, longitude = _first(row, LATITUDE_COLUMNS), _first(row, LONGITUDE_COLUMNS)
    if latitude is not None or longitude is not None:
        return _degrees(row, f"{latitude or ''},{longitude or ''}", [latitude or "", longitude or ""])
    point = _first(row, POINT_COLUMNS)
    found = None if point is None else _POINT.fullmatch(point)
    # A line or a polygon is no place of a picture.
    return None if point is None or found is None else _degrees(row, point, [found[2], found[1]])


def _halves(text: str) -> list[str]:
    bare = text.strip("()[] ")
    if ";" in bare:
        return bare.split(";")
    return bare.split(",") if bare.count(",") == 1 else bare.split()


def _degrees(row: Row, text: str, halves: list[str]) -> tuple[float, float] | None:
    if len(halves) == 2 and all(said(half) is None for half in halves):
        return None
    numbers = [number(half) for half in halves]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        raise DatasetError(f"row {row.image!r}: the place is {text!r}, expected degrees as 'lat,lon'")
    if not (abs(numbers[0]) <= 90 and abs(numbers[1]) <= 180):
        raise DatasetError(f"row {row.image!r}: the place {text!r} is not on Earth; expected degrees as 'lat,lon'")
    return numbers[0], numbers[1]


def _time(row: Row, text: str) -> float:
    """Seconds since 1970; a time that names no zone is UTC."""
    counted = number(text)
    found = _spelled(text) if counted is None else _counted(text, counted)
    if found is None:
        raise DatasetError(f"row {row.image!r}: the timestamp is {text!r}, {EXPECTED}")
    return found


def _counted(text: str, counted: float) -> float | None:
    """A number, in the one unit in which it is a plausible time."""
    first, last = EARLIEST.timestamp(), LATEST.timestamp()
    for unit in UNITS_PER_S:
        if first * unit <= counted < last * unit:
            coarse = (rounded_to(text) or 0.0) / unit > 1
            return None if coarse else counted / unit
    # A column of numbers with gaps is written with decimals.
    return _spelled(re.sub("[.,]0*$", "", text.strip()))


def _spelled(text: str) -> float | None:
    """Digits in the order of a date, or ISO 8601."""
    bare = re.sub(r"\s*(UTC|GMT)$", "Z", text.strip())
    digits = _DIGITS.fullmatch(bare)
    try:
        if digits is not None:
            *parts, fraction = digits.groups(default="0")
            moment = datetime(*map(int, parts), int(fraction.ljust(6, "0")), tzinfo=UTC)  # type: ignore[misc, arg-type]
        else:
            moment = datetime.fromisoformat(bare)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.timestamp() if EARLIEST <= moment < LATEST else None

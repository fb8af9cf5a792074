"""Places and times: the units and spellings of exports, and the row that is named where there is no sense in one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from offline.data.dataset import Row
from offline.data.place_and_time import check_fixes, read_fix, taken_at
from offline.errors import DatasetError

NOON = "2026-05-01T12:00:00Z"
SECONDS = 1_777_636_800
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def row(image: str = "a", **metadata: str) -> Row:
    return Row(image=image, label=0, group=image, metadata=metadata)


def at(timestamp: str) -> float | None:
    fix = read_fix(row(gps="48.1,11.5", timestamp=timestamp))
    assert fix is not None
    return fix.at


@pytest.mark.parametrize(
    "written",
    [
        {"gps": "48.1,11.5"},
        {"gps": "(48.1, 11.5)"},
        {"gps": "48,1 11,5"},
        {"gps": "48,1; 11,5"},
        {"lat": "48.1", "lon": "11.5"},
        {"Lat": "48,1", "LNG": "11,5"},
        {"latitude": "48.1", "longitude": "11.5"},
        {"location.latitude": "48.1", "location.longitude": "11.5"},
        {"geometry": "POINT (11.5 48.1)"},
        {"geometry": '{"type": "Point", "coordinates": [11.5, 48.1]}'},
        {"geometry": '{"coordinates": [11.5, 48.1, 520.0], "type": "Point"}'},
        {"geometry.coordinates": "[11.5, 48.1]"},
    ],
    ids=str,
)
def test_a_place_is_read_as_exports_write_it(written: dict[str, str]) -> None:
    fix = read_fix(row(**written))
    assert fix is not None
    assert (fix.latitude, fix.longitude, fix.at) == (48.1, 11.5, None)


@pytest.mark.parametrize(
    "written",
    [
        {"gps": "0,0"},
        {"gps": "nan,nan"},
        {"lat": "0.0", "lon": "-0.0"},
        {"gps": "None"},
        {"geometry": "LINESTRING (1 2, 3 4)"},
    ],
)
def test_a_receiver_without_a_fix_was_nowhere(written: dict[str, str]) -> None:
    assert read_fix(row(timestamp=NOON, **written)) is None


@pytest.mark.parametrize(
    "written",
    [
        NOON,
        "2026-05-01T14:00:00+02:00",
        # A time that names no zone is UTC.
        "2026-05-01T12:00:00",
        "2026-05-01 12:00:00 UTC",
        "2026:05:01 12:00:00",
        "2026_05_01_12_00_00_000",
        "20260501120000",
        "20260501120000.0",
        "20260501120000000",
        "202605011200",
        "20260501T120000",
        str(SECONDS),
        f"{SECONDS}.0",
        f"{SECONDS},0",
        f"{SECONDS}000",
        f"{SECONDS}000000",
        f"{SECONDS}000000000",
        "1.777636800000E+12",
    ],
)
def test_a_time_is_read_in_the_unit_in_which_it_is_one(written: str) -> None:
    assert at(written) == SECONDS


def test_parts_of_a_second_count() -> None:
    assert at(f"{SECONDS}250") == SECONDS + 0.25
    assert at("20260501120000250") == SECONDS + 0.25


@pytest.mark.parametrize("written", ["", "nan", "NaT", "None", "-"])
def test_a_word_for_nothing_is_no_time(written: str) -> None:
    assert at(written) is None


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"gps": "48.1"}, "row 'a': the place is '48.1'"),
        ({"gps": "north,east"}, "row 'a': the place is 'north,east'"),
        ({"gps": "95,10"}, "row 'a': the place '95,10' is not on Earth"),
        ({"geometry": "POINT (1280000 6130000)"}, "not on Earth"),
        ({"gps": "nan,10"}, "row 'a': the place is 'nan,10'"),
        ({"lat": "48"}, "row 'a': the place is '48,'"),
        *(
            ({"gps": "48,11", "timestamp": written}, rf"row 'a': the timestamp is '{shown}', expected ISO 8601")
            for written, shown in [
                ("yesterday", "yesterday"),
                ("inf", "inf"),
                ("0", "0"),
                # Milliseconds since a video began, as in the labels of BDD100K.
                ("10000", "10000"),
                ("-1777636800", "-1777636800"),
                ("1970-01-01T00:00:00", "1970-01-01T00:00:00"),
                ("20261301000000", "20261301000000"),
                ("05/01/2026 12:00", "05/01/2026 12:00"),
                ("1.77764E+12", r"1\.77764E\+12"),
                ("45413.5", r"45413\.5"),
            ]
        ),
    ],
)
def test_a_place_or_time_that_cannot_be_read_names_the_row(metadata: dict[str, str], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_fixes([row("b"), row("a", **metadata)], NOW)


@pytest.mark.parametrize(
    ("metadata", "taken"),
    [
        ({"captured_at": NOON}, SECONDS),
        ({"timestamp": str(SECONDS)}, SECONDS),
        ({"timestamp": NOON, "gps": "nowhere"}, SECONDS),
        ({"city": "a"}, None),
        ({"captured_at": "05/01/2026 12:00"}, None),
    ],
)
def test_a_row_says_when_it_was_taken_also_where_it_does_not_say_where(
    metadata: dict[str, str], taken: float | None
) -> None:
    assert taken_at(row(**metadata)) == taken


def test_a_time_that_is_still_to_come_is_refused() -> None:
    check_fixes([row(gps="48,11", timestamp=(NOW + timedelta(days=300)).isoformat())], NOW)
    with pytest.raises(DatasetError, match=r"row 'a': .* means 2027-07-06, which is more than a year after today"):
        check_fixes([row(gps="48,11", timestamp=(NOW + timedelta(days=400)).isoformat())], NOW)


def test_near_the_180th_meridian_a_place_is_counted_from_both_sides() -> None:
    fix = read_fix(row(gps="-17,179.9999"))
    assert fix is not None
    assert [round(side.longitude, 4) for side in fix.on_both_sides()] == [179.9999, -180.0001]
    assert read_fix(row(gps="48,11")).on_both_sides() == (read_fix(row(gps="48,11")),)  # type: ignore[union-attr]

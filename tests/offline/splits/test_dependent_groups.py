"""Grouping: what makes rows dependent, and what does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from offline.data.checks.likeness import Likeness
from offline.data.dataset import Row
from offline.errors import DatasetError
from offline.splits.dependent_groups import components
from offline.splits.settings import SplitSettings

NOON = "2026-05-01T12:00:00Z"


def row(image: str, *, group: str = "", source: str = "natix", **metadata: str) -> Row:
    return Row(image=image, label=0, group=group or image, source=source, metadata=metadata)


def at_work(image: str, **metadata: str) -> Row:
    return row(image, **metadata).model_copy(update={"label": 1})


def grouped(rows: Sequence[Row], hashes: dict[str, str | None] | None = None, **settings: object) -> list[str]:
    """The components, each as its images in one word."""
    blank: dict[str, str | None] = dict.fromkeys((r.image for r in rows), None)
    asked = SplitSettings.model_validate(settings)
    found = components(rows, Likeness(blank | (hashes or {}), asked.hash_distance), asked)
    return ["".join(r.image for r in part) for part in found]


def at(metres_north: float, metres_east: float = 0.0, *, latitude: float = 48.0) -> str:
    """A place so far from a point in Europe."""
    degree = np.pi / 180 * 6_371_000
    return f"{latitude + metres_north / degree},{11 + metres_east / degree / np.cos(np.radians(latitude))}"


def flipped(digest: str, bits: int) -> str:
    return f"{int(digest, 16) ^ ((1 << bits) - 1):064x}"


def test_rows_of_one_declared_group_stay_together() -> None:
    assert grouped([row("a", group="x"), row("b", group="y"), row("c", group="x")]) == ["ac", "b"]


def test_frames_of_one_video_are_one_group_also_under_a_dotted_name() -> None:
    rows = [row("a", vid_id="7"), row("b", **{"video_info.vid_id": "7"}), row("c", **{"video_info.vid_id": "8"})]
    assert grouped(rows) == ["ab", "c"]


def test_a_sequence_over_two_videos_joins_them() -> None:
    rows = [row("a", vid_id="1", seq_id="s"), row("b", vid_id="2", seq_id="s"), row("c", vid_id="2")]
    assert grouped(rows) == ["abc"]
    assert grouped(rows, sequence_columns=["vid_id"]) == ["a", "bc"]


def test_the_first_video_of_one_source_is_not_the_first_of_another() -> None:
    assert grouped([row("a", vid_id="1"), row("b", vid_id="1", source="extra")]) == ["a", "b"]


def test_a_source_that_is_spelled_in_two_ways_is_one_source() -> None:
    assert grouped([row("a", source="Dashcam", vid_id="7"), row("b", source="dashcam ", vid_id="7")]) == ["ab"]


def test_a_chain_of_reasons_is_one_group() -> None:
    digest = "0123456789abcdef" * 4
    rows = [row("a", group="x"), row("b", group="x", vid_id="1"), row("c", vid_id="1"), row("d")]
    assert grouped(rows, {"c": digest, "d": flipped(digest, 3)}) == ["abcd"]


@pytest.mark.parametrize("latitude", [0.0, 48.0, -70.0])
@pytest.mark.parametrize("offset", [0.0, 13.0, 26.0, 49.0])
def test_the_same_place_within_minutes_is_one_group_wherever_a_cell_ends(offset: float, latitude: float) -> None:
    near = [(0.0, 0.0), (24.0, 0.0), (0.0, 24.0)]
    rows = [
        row("abc"[i], gps=at(offset + north, offset + east, latitude=latitude), timestamp=f"2026-05-01T12:0{3 * i}:00Z")
        for i, (north, east) in enumerate(near)
    ]
    assert grouped(rows) == ["abc"]


def test_another_place_or_a_later_hour_is_another_group() -> None:
    rows = [
        row("a", gps=at(0), timestamp=NOON),
        row("b", gps=at(80), timestamp=NOON),
        row("c", gps=at(0), timestamp="2026-05-01T13:00:00+00:00"),
    ]
    assert grouped(rows) == ["a", "b", "c"]
    assert grouped(rows, gps_cell_m=400) == ["ab", "c"]
    assert grouped(rows, gps_minutes=61) == ["ac", "b"]


def test_a_slow_drive_is_one_group_though_its_ends_are_hours_apart() -> None:
    rows = [row("abcdef"[i], gps=at(0), timestamp=str(1.7e9 + 500 * i)) for i in range(6)]
    assert grouped(rows) == ["abcdef"]


def test_roadwork_of_one_place_is_one_site_for_weeks() -> None:
    days = (1, 31, 74, 125)
    when = [f"{1.7e9 + 86_400 * day}" for day in days]
    rows = [at_work("abcd"[n], gps=at(0), timestamp=when[n]) for n in range(4)]
    # A month, then six weeks, then more than that after the one before.
    assert grouped(rows) == ["abc", "d"]
    assert grouped(rows, roadwork_days=40) == ["ab", "c", "d"]
    assert grouped(rows, roadwork_days=None) == ["a", "b", "c", "d"]
    elsewhere = at_work("e", gps=at(80), timestamp=when[0])
    assert grouped([*rows, elsewhere], roadwork_days=60) == ["abcd", "e"]


def test_a_place_without_roadwork_is_another_visit_after_minutes() -> None:
    times = [f"2026-05-0{day}T12:00:00Z" for day in (1, 2, 3)]
    rows = [of("abc"[n], gps=at(0), timestamp=times[n]) for n, of in enumerate((row, at_work, row))]
    assert grouped(rows) == ["a", "b", "c"]
    assert grouped([*rows, row("d", gps=at(0), timestamp="2026-05-02T12:09:00Z")]) == ["a", "bd", "c"]


@pytest.mark.parametrize("offset", [0.0, 13.0, 26.0, 49.0])
def test_one_construction_site_is_one_site_wherever_a_cell_ends(offset: float) -> None:
    rows = [at_work("a", gps=at(offset), timestamp=NOON)]
    rows += [at_work("b", gps=at(offset + 24), timestamp="2026-06-01T12:00:00Z")]
    assert grouped(rows) == ["ab"]


def test_a_place_without_a_time_joins_nothing() -> None:
    assert grouped([row("a", gps=at(0)), row("b", gps=at(0)), row("c", gps=at(0), timestamp=NOON)]) == ["a", "b", "c"]


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000, 1_000_000_000])
@pytest.mark.parametrize("column", ["timestamp", "captured_at", "attributes.timestamp"])
def test_frames_of_a_minute_in_one_place_are_one_group_whatever_the_unit_of_their_time(column: str, unit: int) -> None:
    """BDD100K and Mapillary count milliseconds; read as seconds, a second lasted a quarter of an hour."""
    rows = [row("abcd"[i], gps=at(0), **{column: str((1_714_560_000 + 20 * i) * unit)}) for i in range(4)]
    assert grouped(rows) == ["abcd"]


def test_frames_of_a_minute_are_one_group_if_their_time_is_written_in_digits() -> None:
    times = ["20240501105959", "20240501110005", "20240501120005"]
    assert grouped([row("abc"[i], gps=at(0), timestamp=times[i]) for i in range(3)]) == ["ab", "c"]


def test_receivers_without_a_fix_were_not_in_one_place() -> None:
    assert grouped([row("a", gps="0,0", timestamp=NOON), row("b", gps="0.0,-0.0", timestamp=NOON)]) == ["a", "b"]


@pytest.mark.parametrize("latitude", [0.0, -17.0, 66.0])
@pytest.mark.parametrize("metres", [3.0, 12.0, 24.0])
def test_the_two_sides_of_the_180th_meridian_are_neighbours(metres: float, latitude: float) -> None:
    degrees = np.degrees(metres / 2 / 6_371_000 / np.cos(np.radians(latitude)))
    rows = [
        row("a", gps=f"{latitude},{180 - degrees}", timestamp=NOON),
        row("b", gps=f"{latitude},{-180 + degrees}", timestamp=NOON),
        row("c", gps=f"{latitude},{-180 + 40 * degrees + 0.01}", timestamp=NOON),
    ]
    assert grouped(rows) == ["ab", "c"]


@pytest.mark.parametrize("column", ["vid_id", "seq_id", "video_id", "sequence_id", "sequence", "data.Sequence ID"])
def test_ids_of_drives_are_known_under_the_names_that_exports_give_them(column: str) -> None:
    assert grouped([row("a", **{column: "7"}), row("b", **{column: "7.0"}), row("c", **{column: "8"})]) == ["ab", "c"]


@pytest.mark.parametrize("nothing", ["nan", "NaN", "None", "N/A", "null", "unknown", "-", " ", "undefined", "#N/A"])
def test_words_for_nothing_join_nobody(nothing: str) -> None:
    rows = [row("a", vid_id=nothing), row("b", vid_id=nothing), row("c", gps=nothing, timestamp=nothing)]
    assert grouped(rows) == ["a", "b", "c"]


def test_ids_that_a_spreadsheet_rounded_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"row 'a', column sequence_id: the id '4\.98763E\+14' was rounded"):
        grouped([row("a", sequence_id="4.98763E+14"), row("b", sequence_id="4.98763E+14")])


def test_what_is_not_used_is_not_read() -> None:
    assert grouped([row("a", timestamp="10000"), row("b", timestamp="20000")]) == ["a", "b"]
    assert grouped([row("a", gps="nowhere")], gps_cell_m=None) == ["a"]


def test_pictures_that_look_the_same_are_one_group() -> None:
    rng = np.random.default_rng(0)
    first, other = rng.bytes(32).hex(), rng.bytes(32).hex()
    rows = [row(name) for name in "abcde"]
    hashes: dict[str, str | None] = {
        "a": first,
        "b": first,
        "c": flipped(first, 40),
        "d": flipped(first, 41),
        "e": other,
    }
    assert grouped(rows, hashes, hash_distance=40) == ["abcd", "e"]
    assert grouped([r for r in rows if r.image != "c"], hashes, hash_distance=40) == ["ab", "d", "e"]
    assert grouped(rows, hashes, hash_distance=None) == ["a", "b", "c", "d", "e"]


def test_blank_pictures_are_not_the_same_place() -> None:
    assert grouped([row("a"), row("b")], {"a": None, "b": None}) == ["a", "b"]


def test_the_order_of_rows_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    rows = [row(f"{n:03d} ", group=str(n // 2), vid_id=str(rng.integers(900))) for n in range(200)]
    expected = grouped(rows)
    assert 20 < len(expected) < 100
    assert grouped([rows[i] for i in rng.permutation(200)]) == expected


def test_a_group_of_the_ledger_stands_beside_the_declared_one() -> None:
    rows = [row("a", group="x"), row("b", group="y"), row("c", group="z")]
    blank: dict[str, str | None] = dict.fromkeys("abc", None)
    found = components(rows, Likeness(blank, 40), SplitSettings(), {"a": "z"})
    assert [[r.image for r in part] for part in found] == [["a", "c"], ["b"]]

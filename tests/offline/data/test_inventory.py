"""What was read is said once: how many rows, what joins them, what is only metadata."""

from __future__ import annotations

from pathlib import Path

from offline.data.dataset import Dataset, Row
from offline.data.inventory import inventory_of
from offline.splits.settings import SplitSettings

SEQUENCES = SplitSettings().sequence_columns


def data(*rows: dict[str, str], groups: str = "") -> Dataset:
    made = [
        Row(
            image=f"{n}.jpg",
            label=n % 2,
            group=groups[n] if groups else f"{n}.jpg",
            source=m.pop("source", ""),
            metadata=m,
        )
        for n, m in enumerate(map(dict, rows))
    ]
    return Dataset(Path("roads"), tuple(made))


def test_columns_are_told_by_what_they_do() -> None:
    rows = [
        {"tags.vid_id": "1", "weather": "rain", "gps": "48,11", "timestamp": "1777636800", "drive": "x"},
        {"tags.vid_id": "1.0", "weather": "nan", "gps": "", "timestamp": "", "drive": "x"},
        {"tags.vid_id": "2", "weather": "dry", "gps": "", "timestamp": "", "drive": "y"},
    ]
    inventory = inventory_of(data(*rows, groups="aab"), SEQUENCES)
    assert {column.column: (column.use, column.rows, column.values) for column in inventory.columns} == {
        "group": ("joins rows", 3, 2),
        "tags.vid_id": ("joins rows", 3, 2),
        "gps": ("place and time", 1, 1),
        "timestamp": ("place and time", 1, 1),
        "weather": ("metadata", 2, 2),
        "drive": ("metadata", 3, 2),
    }
    assert str(inventory) == (
        "3 rows, 1 with roadwork; columns that join rows: group (2 values), tags.vid_id (2 values); "
        "group joins most: 2 rows have 'a'; place and time: gps, timestamp; only metadata: drive, weather"
    )


def test_the_column_that_joins_most_rows_is_named_with_its_value() -> None:
    rows = [{"sequence": "7"}, {"sequence": "7"}, {"sequence": "7"}, {"vid_id": "1"}, {"vid_id": "1"}]
    assert inventory_of(data(*rows), SEQUENCES).joins_most == "sequence joins most: 3 rows have '7'"


def test_the_same_number_in_two_sources_joins_nobody() -> None:
    inventory = inventory_of(data({"vid_id": "1", "source": "a"}, {"vid_id": "1", "source": "b"}), SEQUENCES)
    assert (inventory.joins_most, inventory.joining[0].values) == ("no column joins rows", 2)


def test_without_the_rule_of_places_they_are_metadata() -> None:
    inventory = inventory_of(data({"gps": "48,11"}), SEQUENCES, places=False)
    assert [column.use for column in inventory.columns] == ["metadata"]


def test_rows_without_any_column_are_told_as_well() -> None:
    text = str(inventory_of(data({}, {}), SEQUENCES))
    assert text == "2 rows, 1 with roadwork; columns that join rows: none; no column joins rows; only metadata: none"

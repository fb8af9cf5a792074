"""A condition is told when it begins and when it ends, once each, also over a restart."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from engines.machine.disk.disk_thread import DiskThread
from miner.alerts.edges import Edges, Held
from miner.alerts.rules import Condition

START = datetime(2026, 3, 1, tzinfo=UTC)
SLOW = Condition("slow", "alarm", "It is slow.")
SILENT = Condition("silent", "warning", "Nobody asks.")


def told(edges: Edges, at_s: float, *found: Condition) -> list[tuple[str, str]]:
    events = edges.compare(found, START + timedelta(seconds=at_s))
    return [(event.kind, str(event.details["condition"])) for event in events]


def test_it_is_told_once_when_it_has_settled_and_once_when_it_is_over(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=60)
    assert told(edges, 0, SLOW) == []
    assert told(edges, 59, SLOW) == []
    assert told(edges, 60, SLOW) == [("condition_begins", "slow")]
    assert all(told(edges, at, SLOW) == [] for at in range(75, 4000, 15))
    assert edges.held == ["slow"]
    assert told(edges, 4000) == []
    assert told(edges, 4060) == [("condition_over", "slow")]
    assert told(edges, 4075) == []
    assert edges.held == []


def test_what_flickers_is_not_told(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=60)
    assert all(told(edges, at, *([SLOW] if at % 60 < 30 else [])) == [] for at in range(0, 3000, 15))


def test_a_short_recovery_is_not_told(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=60)
    told(edges, 0, SLOW)
    told(edges, 60, SLOW)
    assert told(edges, 75) == []
    assert told(edges, 90, SLOW) == []
    assert told(edges, 165) == []
    assert told(edges, 180, SLOW) == []


def test_a_restart_tells_nothing_twice_and_tells_the_end(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=60)
    told(edges, 0, SLOW, SILENT)
    assert len(told(edges, 60, SLOW, SILENT)) == 2
    again = Edges(tmp_path / "alerts.json", settled_s=60)
    assert told(again, 100, SLOW) == []
    assert told(again, 160, SLOW) == [("condition_over", "silent")]
    assert told(again, 400, SLOW) == []


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"schema_version": 1, "since": {"slow": "2026-03-01T00:00:00Z"}, "levels": {}}',
        '{"schema_version": 1, "since": {"slow": "2026-03-01T00:00:00"}, "levels": {"slow": "alarm"}}',
    ],
)
def test_a_file_that_cannot_be_read_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "alerts.json").write_text(text)
    edges = Edges(tmp_path / "alerts.json", settled_s=0)
    assert edges.held == []
    assert told(edges, 0, SLOW) == [("condition_begins", "slow")]


def test_the_end_is_as_loud_as_the_beginning(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=0)
    (begun,) = edges.compare([SLOW], START)
    (over,) = edges.compare([], START + timedelta(minutes=5))
    assert (begun.level, over.level) == ("alarm", "alarm")
    assert over.text == "Over after 5 minutes: slow."


def test_a_disk_that_is_full_keeps_nothing_from_being_told(tmp_path: Path) -> None:
    # The alarm of that very disk is among what would be lost.
    edges = Edges(tmp_path / "not there" / "alerts.json", settled_s=0)
    assert told(edges, 0, SLOW) == [("condition_begins", "slow")]
    assert told(edges, 15, SLOW) == []
    assert told(edges, 30) == [("condition_over", "slow")]


def test_what_could_not_be_written_is_written_when_the_disk_has_room(tmp_path: Path) -> None:
    home = tmp_path / "not there"
    edges = Edges(home / "alerts.json", settled_s=0)
    told(edges, 0, SLOW)
    home.mkdir()
    told(edges, 15, SLOW)
    assert Edges(home / "alerts.json", settled_s=0).held == ["slow"]


def test_what_held_before_a_restart_ends_by_evidence_alone(tmp_path: Path) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=60)
    told(edges, 0, SLOW, SILENT)
    told(edges, 60, SLOW, SILENT)
    again = Edges(tmp_path / "alerts.json", settled_s=60)

    def compare(at_s: float, *unknown: str) -> list[tuple[str, str]]:
        events = again.compare([], START + timedelta(seconds=at_s), lambda name: name in unknown)
        return [(event.kind, str(event.details["condition"])) for event in events]

    # Nobody has asked since, for as long as it may be.
    assert all(compare(at, "slow", "silent") == [] for at in range(100, 4000, 15))
    assert sorted(again.held) == ["silent", "slow"]
    assert compare(4000, "slow") == []
    # A moment without evidence begins it anew.
    assert compare(4030, "slow", "silent") == []
    assert compare(4060, "slow") == []
    assert compare(4120, "slow") == [("condition_over", "silent")]
    assert compare(4135) == []
    assert compare(4195) == [("condition_over", "slow")]


def test_a_disk_that_hangs_keeps_nothing_from_being_told_and_gets_the_latest_when_it_goes_on(tmp_path: Path) -> None:
    goes_on, hangs, disk = threading.Event(), threading.Event(), DiskThread("alerts")

    def hang() -> None:
        hangs.set()
        goes_on.wait(60)

    disk.submit(hang)
    assert hangs.wait(60)
    edges = Edges(tmp_path / "alerts.json", settled_s=0, disk=disk)
    assert told(edges, 0, SLOW) == [("condition_begins", "slow")]
    assert told(edges, 15, SLOW, SILENT) == [("condition_begins", "silent")]
    # One write waits, and no more.
    assert disk.waiting == 1
    goes_on.set()
    disk.submit(lambda: None).result(60)
    assert told(edges, 30, SLOW, SILENT) == []
    disk.submit(lambda: None).result(60)
    assert Edges(tmp_path / "alerts.json", settled_s=0).held == ["slow", "silent"]


@pytest.mark.parametrize("jump", [timedelta(hours=-9), timedelta(hours=9)])
def test_a_clock_that_is_set_neither_hastens_nor_delays_what_is_told(tmp_path: Path, jump: timedelta) -> None:
    edges = Edges(tmp_path / "alerts.json", settled_s=60)

    def compare(at_s: float, now: datetime, *found: Condition) -> list[str]:
        return [event.kind for event in edges.compare(found, now, clock_s=at_s)]

    assert compare(0, START, SLOW) == []
    assert compare(15, START + jump, SLOW) == []
    assert compare(60, START + jump, SLOW) == ["condition_begins"]
    assert compare(75, START) == []
    assert compare(90, START + 2 * jump) == []
    assert compare(135, START - jump) == ["condition_over"]


def test_what_is_told_while_the_file_is_written_is_written_after_it_without_another_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, hangs, disk = threading.Event(), threading.Event(), DiskThread("alerts")
    write = Held.write

    def slow_write(held: Held, file: Path) -> None:
        hangs.set()
        goes_on.wait(60)
        write(held, file)

    monkeypatch.setattr(Held, "write", slow_write)
    edges = Edges(tmp_path / "alerts.json", settled_s=0, disk=disk)
    told(edges, 0, SLOW)
    assert hangs.wait(60)
    told(edges, 15, SLOW, SILENT)
    edges.keep()
    assert disk.waiting == 1
    goes_on.set()
    disk.submit(lambda: None).result(60)
    assert sorted(Edges(tmp_path / "alerts.json").held) == ["silent", "slow"]
    edges.keep()
    assert disk.waiting == 0

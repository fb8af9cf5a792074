"""The load of a miner in a file: its percentile, its window, and when it says nothing any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.machine.load_gauge import GAUGE, STALE_S, WINDOW_S, LoadGauge, read_reading, write_reading


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("times", "p99"), [([], None), ([5.0], 5.0), ([*range(1, 101)], 100.0), ([1.0] * 200 + [900.0], 1.0)]
)
def test_the_percentile_is_exceeded_by_one_in_a_hundred(times: list[float], p99: float | None) -> None:
    gauge = LoadGauge(50.0, Clock())
    for took in times:
        gauge.add(took)
    reading = gauge.reading()
    assert (reading.p99_ms, reading.requests) == (p99, len(times))
    assert reading.over == (p99 is not None and p99 > 50)


def test_old_requests_are_forgotten_so_that_a_pause_ends() -> None:
    clock = Clock()
    gauge = LoadGauge(50.0, clock)
    gauge.add(900.0)
    assert gauge.reading().over
    clock.now += WINDOW_S + 1
    assert not gauge.reading().over


def test_a_reading_that_is_old_or_from_before_a_restart_of_the_machine_says_nothing(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / GAUGE
    assert read_reading(path, clock) is None
    gauge = LoadGauge(50.0, clock)
    gauge.add(900.0)
    write_reading(path, gauge.reading())
    found = read_reading(path, clock)
    assert found is not None
    assert found.over
    clock.now += STALE_S + 1
    assert read_reading(path, clock) is None
    clock.now = 3.0
    assert read_reading(path, clock) is None
    path.write_text("{")
    assert read_reading(path, clock) is None
    assert [file.name for file in tmp_path.iterdir()] == [GAUGE]

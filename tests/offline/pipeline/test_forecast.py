"""How long a stage and a run will still take is said by how long they took before."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.pipeline.forecast import Forecast
from offline.pipeline.stage_times import StageTime, duration_words, expected_seconds, note_time, times_in


class Told:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int, str]] = []

    def stage(self, name: str, state: str) -> None:
        pass

    def step(self, done: int, total: int, note: str = "") -> None:
        self.steps.append((done, total, note))


def time(stage: str, seconds: float, *, resumed: bool = False) -> StageTime:
    return StageTime(stage=stage, key="k", seconds=seconds, resumed=resumed, at="2026-01-01T00:00:00+00:00")


def test_what_is_left_falls_with_the_clock_and_with_the_stages() -> None:
    told, now = Told(), [0.0]
    times = [time("train", 600), time("train", 600), time("export", 60), time("splits", 5)]
    forecast = Forecast(told, ["splits", "train", "export"], times, lambda: now[0])
    forecast.stage("splits", "cached")
    forecast.stage("train", "running")
    assert told.steps == [(0, 1, "about 10 min left, 11 min to the end")]
    now[0] = 300.0
    forecast.step(1, 2, "epoch 1")
    assert told.steps[-1] == (1, 2, "epoch 1; about 5 min left, 6 min to the end")
    now[0] = 900.0
    forecast.step(2, 2)
    assert told.steps[-1] == (2, 2, "about 0 s left, 60 s to the end")
    forecast.stage("train", "done")
    assert forecast.times == (("train", 900.0),)


def test_a_stage_that_takes_longer_than_before_goes_by_how_far_it_is() -> None:
    told, now = Told(), [0.0]
    forecast = Forecast(told, ["train", "export"], [time("train", 100), time("export", 60)], lambda: now[0])
    forecast.stage("train", "running")
    now[0] = 300.0
    forecast.step(0, 60, "decoding")
    assert told.steps[-1] == (0, 60, "decoding; longer than before, and 60 s after it")
    forecast.step(20, 60, "epoch 2")
    assert told.steps[-1] == (20, 60, "epoch 2; about 10 min left, 11 min to the end")
    forecast.stage("train", "done")
    forecast.stage("export", "running")
    now[0] = 400.0
    forecast.step(0, 2)
    assert told.steps[-1] == (0, 2, "longer than before")


def test_a_stage_that_never_ran_is_not_guessed() -> None:
    told = Told()
    forecast = Forecast(told, ["train", "export"], [time("train", 60)], lambda: 0.0)
    forecast.stage("train", "running")
    assert told.steps == [(0, 1, "about 60 s left, 60 s or more to the end")]
    forecast.stage("train", "done")
    forecast.stage("export", "running")
    forecast.step(1, 2, "opset 18")
    assert told.steps[1:] == [(1, 2, "opset 18")]


def test_times_are_the_median_of_the_last_without_a_break(tmp_path: Path) -> None:
    for seconds in (1, 100, 10, 20, 30, 40):
        note_time(tmp_path, time("train", seconds))
    note_time(tmp_path, time("train", 2, resumed=True))
    with (tmp_path / "stage_times.jsonl").open("a") as handle:
        handle.write('{"stage": 3}\nno json\n')
    assert expected_seconds(times_in(tmp_path), "train") == 30
    assert expected_seconds([time("train", 2, resumed=True)], "train") == 2
    assert expected_seconds(times_in(tmp_path), "export") is None


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (7500, "2 h 05 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words

"""A night that waits for a slow miner: at each border, not for ever, and not when it is told to end."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from engines.machine.load_gauge import GAUGE, LoadGauge, write_reading
from offline.pipeline.pause import LONGEST_S, LOOK_S, Pause, sleep_until_signal, slow_by


class Told:
    def __init__(self) -> None:
        self.steps: list[int] = []
        self.words: list[str] = []

    def stage(self, name: str, state: str) -> None:
        self.words.append(f"{name} {state}")

    def step(self, done: int, total: int, note: str = "") -> None:
        assert done <= total
        assert not note
        self.steps.append(done)


class Machine:
    """A clock that only sleeping moves, and a miner that is slow until some time."""

    def __init__(self, slow_until: float = 0.0) -> None:
        self.now, self.slow_until, self.signal_at = 0.0, slow_until, float("inf")

    def clock(self) -> float:
        return self.now

    def slow(self) -> bool:
        return self.now < self.slow_until

    def sleep(self, seconds: float) -> bool:
        self.now += seconds
        return self.now >= self.signal_at


def pause(machine: Machine, told: Told) -> Pause:
    return Pause(told, machine.slow, tell=told.words.append, sleep=machine.sleep, clock=machine.clock)


def test_it_goes_on_when_the_miner_is_quick_again() -> None:
    machine, told = Machine(slow_until=7.0), Told()
    waiting = pause(machine, told)
    waiting.stage("train", "running")
    waiting.step(1, 2)
    assert 7.0 <= machine.now < 7.0 + LOOK_S
    said = "waits for the miner, whose requests take longer than its limit; it has waited 0 s so far"
    assert told.words == ["train running", said]
    machine.now += 1
    waiting.step(2, 2)
    assert (told.steps, waiting.waited_s) == ([1, 2], machine.now - 1)


def test_a_miner_that_is_slow_for_ever_does_not_stop_a_night() -> None:
    machine, told = Machine(slow_until=1e9), Told()
    waiting = pause(machine, told)
    for step in range(3):
        waiting.step(step, 3)
        machine.now += LOOK_S
    assert told.steps == [0, 1, 2]
    assert waiting.waited_s == 3 * LONGEST_S


def test_whoever_is_told_to_end_waits_no_longer() -> None:
    machine, told = Machine(slow_until=1e9), Told()
    machine.signal_at = 2.0
    pause(machine, told).step(1, 1)
    assert machine.now == 2.0


def test_the_file_is_not_read_for_every_batch() -> None:
    machine, told, looks = Machine(), Told(), list[float]()

    def slow() -> bool:
        looks.append(machine.now)
        return False

    waiting = Pause(told, slow, tell=told.words.append, sleep=machine.sleep, clock=machine.clock)
    for step in range(100):
        machine.now += 0.01
        waiting.step(step, 100)
    assert len(looks) in {2, 3}


def test_a_miner_says_that_it_is_slow_by_its_file(tmp_path: Path) -> None:
    slow = slow_by(tmp_path / GAUGE)
    assert not slow()
    gauge = LoadGauge(10.0)
    gauge.add(500.0)
    write_reading(tmp_path / GAUGE, gauge.reading())
    assert slow()


def test_a_signal_ends_the_sleep() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with sleep_until_signal() as sleep:
            assert not sleep(0.01)
            threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
            began = time.monotonic()
            assert sleep(60)
            assert time.monotonic() - began < 60
            assert not sleep(0.01)
    finally:
        signal.signal(signal.SIGTERM, before)

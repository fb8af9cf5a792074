"""A disk that hangs holds up its own thread, and whoever asks is told for how long."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from engines.machine.disk import disk_thread
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.disk.latest import Latest

LIMIT_S = 60.0


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """Set it to have the disk go on."""
    event = threading.Event()
    yield event
    event.set()


def test_work_is_done_in_its_order_and_a_fault_of_one_costs_the_next_nothing() -> None:
    disk, done = DiskThread("store"), list[int]()

    def fails() -> None:
        raise OSError("no such disk")

    def note(number: int) -> int:
        done.append(number)
        return number

    first, failed, last = disk.submit(lambda: note(1)), disk.submit(fails), disk.submit(lambda: note(2))
    assert last.result(LIMIT_S) == 2
    assert first.result(LIMIT_S) == 1
    assert isinstance(failed.exception(LIMIT_S), OSError)
    assert done == [1, 2]


def test_a_disk_that_hangs_is_told_with_its_time(hang: threading.Event) -> None:
    times = [100.0]
    disk, begun = DiskThread("store", clock=lambda: times[0]), threading.Event()
    assert disk.hangs_s == 0

    def hanging() -> bool:
        begun.set()
        return hang.wait(LIMIT_S)

    stuck = disk.submit(hanging)
    later = disk.submit(lambda: None)
    assert begun.wait(LIMIT_S)
    times[0] = 142.0
    assert disk.hangs_s == 42.0
    assert disk.waiting == 1
    hang.set()
    stuck.result(LIMIT_S)
    later.result(LIMIT_S)
    disk.submit(lambda: None).result(LIMIT_S)
    assert disk.waiting == 0


def test_work_that_is_cancelled_before_its_turn_is_not_done(hang: threading.Event) -> None:
    disk, done = DiskThread("store"), list[str]()
    disk.submit(lambda: hang.wait(LIMIT_S))
    given_up = disk.submit(lambda: done.append("given up"))
    assert given_up.cancel()
    hang.set()
    disk.submit(lambda: done.append("wanted")).result(LIMIT_S)
    assert done == ["wanted"]


def test_a_thread_without_work_ends_and_the_next_piece_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_thread, "IDLE_S", 0.0)
    disk = DiskThread("store")
    one = disk.submit(threading.current_thread).result(LIMIT_S)
    one.join(LIMIT_S)
    assert not one.is_alive()
    assert disk.submit(lambda: "still there").result(LIMIT_S) == "still there"


def test_a_machine_without_a_thread_left_fails_that_work_and_not_what_comes_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disk, done = DiskThread("store"), list[str]()

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", none_left)
        failed = disk.submit(lambda: done.append("while there is none"))
    assert isinstance(failed.exception(LIMIT_S), OSError)
    disk.submit(lambda: done.append("later")).result(LIMIT_S)
    assert done == ["later"]


class TestLatest:
    def test_a_reading_is_that_of_the_disk_at_the_time_it_is_asked_for(self) -> None:
        numbers = iter(range(1, 100))

        async def scenario() -> None:
            latest = Latest(DiskThread("store"), lambda: next(numbers), 0)
            assert latest.value == 0
            assert await latest.look(LIMIT_S) == 1
            assert await latest.look(LIMIT_S) == 2

        asyncio.run(scenario())

    def test_while_the_disk_hangs_the_last_one_is_told_with_its_age(self, hang: threading.Event) -> None:
        times, numbers, hangs = [0.0], iter(range(1, 100)), list[bool]()

        def read() -> int:
            if hangs:
                hang.wait(LIMIT_S)
            return next(numbers)

        async def scenario() -> None:
            disk = DiskThread("store", clock=lambda: times[0])
            latest = Latest(disk, read, 0, clock=lambda: times[0])
            assert await latest.look(LIMIT_S) == 1
            hangs.append(True)
            assert await latest.look(0.01) == 1
            times[0] = 30.0
            # Nobody waits for it any more, and no more than one look waits behind it.
            assert [await latest.look(0.01) for _ in range(5)] == [1] * 5
            assert disk.waiting <= 1
            assert latest.age_s == 30.0
            hang.set()
            await asyncio.wrap_future(latest.begin())
            assert latest.value > 1
            assert latest.age_s == 0.0

        asyncio.run(scenario())

    def test_a_reading_that_fails_leaves_the_one_before(self) -> None:
        readings = iter([1])

        async def scenario() -> None:
            latest = Latest(DiskThread("store"), lambda: next(readings), 0)
            assert await latest.look(LIMIT_S) == 1
            assert await latest.look(LIMIT_S) == 1

        asyncio.run(scenario())

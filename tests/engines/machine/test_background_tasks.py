"""Tasks that run beside whoever began them."""

from __future__ import annotations

import asyncio
import threading

import pytest
from structlog.testing import capture_logs

from engines.machine.background_tasks import BackgroundTasks, Once, begun_in_thread, unless


async def fails() -> None:
    raise RuntimeError("a fault")


def test_what_a_task_raises_is_in_the_log_once() -> None:
    async def scenario() -> None:
        BackgroundTasks().begin(fails())
        for _ in range(3):
            await asyncio.sleep(0)

    with capture_logs() as logs:
        asyncio.run(scenario())
    [entry] = logs
    assert entry["event"] == "background_task_failed"
    assert str(entry["exc_info"]) == "a fault"


def test_a_task_that_is_cancelled_is_no_failure() -> None:
    async def scenario() -> None:
        tasks = BackgroundTasks()
        tasks.begin(asyncio.sleep(60))
        await asyncio.sleep(0)
        await asyncio.gather(*tasks.cancel(), return_exceptions=True)

    with capture_logs() as logs:
        asyncio.run(scenario())
    assert logs == []


def test_what_is_under_way_is_not_begun_once_more() -> None:
    async def scenario() -> None:
        ends, begun = asyncio.Event(), list[int]()

        async def work() -> None:
            begun.append(len(begun))
            await ends.wait()

        tasks = BackgroundTasks()
        once = Once(tasks)
        for _ in range(3):
            once.begin(work)
            await asyncio.sleep(0)
        assert begun == [0]
        ends.set()
        while tasks.cancel():
            await asyncio.sleep(0)
        once.begin(work)
        await asyncio.sleep(0)
        assert begun == [0, 1]
        await asyncio.gather(*tasks.cancel(), return_exceptions=True)

    asyncio.run(scenario())


def test_work_is_given_up_when_something_else_happens_first() -> None:
    async def scenario() -> None:
        happens = asyncio.Event()
        assert await unless(asyncio.sleep(0, "done"), happens.wait(), RuntimeError("it happened")) == "done"
        happens.set()
        with pytest.raises(RuntimeError, match="it happened"):
            await unless(asyncio.sleep(3600), happens.wait(), RuntimeError("it happened"))

    asyncio.run(scenario())


def test_whoever_waits_for_a_thread_is_told_of_whatever_ended_it() -> None:
    class Panic(BaseException):
        """As of a library that is written in Rust."""

    def panics() -> None:
        raise Panic

    async def scenario() -> None:
        async with asyncio.timeout(60):
            await begun_in_thread(panics, "panics")

    with pytest.raises(Panic):
        asyncio.run(scenario())


def test_a_machine_without_a_thread_left_is_told_as_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", none_left)
            begun = begun_in_thread(lambda: "done", "work")
        with pytest.raises(OSError, match="can't start new thread"):
            await begun
        assert await begun_in_thread(lambda: "done", "work") == "done"

    asyncio.run(scenario())

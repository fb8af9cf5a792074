"""Tasks that run beside whoever began them."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from engines.machine.background_tasks import BackgroundTasks


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

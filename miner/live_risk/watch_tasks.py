"""Takes up the watch on the live certificate when a miner starts, and lets it go when it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

from engines.live.swap.follower import StoreFollower
from engines.machine.background_tasks import BackgroundTasks
from engines.machine.clock import utc_now
from miner.events.event import Event, EventSink
from miner.live_risk.auditor import Auditor, roll_back
from miner.live_risk.live_risk import DIRECTORY, LiveRisk
from miner.live_risk.settings import LiveRiskSettings
from stage2_bridge.bridge import Bridge


def open_live_risk(
    settings: LiveRiskSettings, state: Path, events: EventSink, stack: AsyncExitStack
) -> LiveRisk | None:
    """The watch, None where the settings want none.

    Args:
        settings: of the watch.
        state: directory of what must survive a restart.
        events: told of every change of a level.
        stack: closes it, after everything that comes later.

    Raises:
        stage1.errors.ArtifactError: the key of the draws cannot be read.
    """
    if not settings.enabled:
        return None

    def tell(kind: str, level: Literal["info", "warning", "alarm"], text: str, details: Mapping[str, Any]) -> None:
        events.event(Event(kind, level, text, dict(details)))

    risk = LiveRisk(state / DIRECTORY, settings, now=utc_now, tell=tell)
    stack.push_async_callback(asyncio.to_thread, risk.close)
    return risk


def start_audits(risk: LiveRisk | None, follower: StoreFollower, bridge: Bridge, stack: AsyncExitStack) -> None:
    """Begin to ask about what was drawn, and react to alarms.

    Args:
        risk: the watch; None does nothing.
        follower: holds the live bundle, and the one to go back to.
        bridge: the way to Stage-2.
        stack: ends it, before what it asks is closed.
    """
    if risk is None:
        return
    risk.has_stage2 = lambda: bridge.stats.most > 0
    auditor = Auditor(
        risk,
        bridge,
        follower.slot,
        clock=time.monotonic,
    )
    tasks = BackgroundTasks()
    loop = asyncio.get_running_loop()

    def react() -> None:
        if risk.settings.reaction == "rollback":
            loop.call_soon_threadsafe(lambda: tasks.begin(roll_back(risk, follower, utc_now)))

    risk.react = react
    tasks.begin(auditor.run())
    stack.push_async_callback(_end, tasks)


async def _end(tasks: BackgroundTasks) -> None:
    await asyncio.gather(*tasks.cancel(), return_exceptions=True)

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
from engines.store.records import RevocationEntry
from engines.store.store import Store
from miner.events.event import Event, EventSink
from miner.live_risk.auditor import Auditor, roll_back
from miner.live_risk.live_risk import DIRECTORY, LiveRisk
from miner.live_risk.settings import LiveRiskSettings
from stage1.errors import CascadeError
from stage2_bridge.bridge import Bridge

# Between two looks whether the store knows of an alarm.
REVOCATION_S = 30.0


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


def start_audits(
    risk: LiveRisk | None, store: Store, follower: StoreFollower, bridge: Bridge, stack: AsyncExitStack
) -> None:
    """Begin to ask about what was drawn, and react to alarms.

    Args:
        risk: the watch; None does nothing.
        store: told of certificates that an alarm revokes.
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

    async def revoke_and_go_back(entry: RevocationEntry | None) -> None:
        # First, for the status is soon that of the bundle before.
        await revoke(store, entry, risk)
        if risk.settings.reaction == "rollback":
            await roll_back(risk, follower, utc_now)

    def react() -> None:
        entry = revocation_in(risk.status())
        loop.call_soon_threadsafe(lambda: tasks.begin(revoke_and_go_back(entry)))

    risk.react = react
    tasks.begin(auditor.run())
    tasks.begin(_keep_revoked(store, risk))
    stack.push_async_callback(_end, tasks)


def revocation_in(status: Mapping[str, Any]) -> RevocationEntry | None:
    """What the store is told where the live certificate has an alarm; None where it has none.

    Args:
        status: of the watch.
    """
    if not status.get("alarms"):
        return None
    return RevocationEntry(
        certificate=status["certificate"], bundle=status["bundle"], reason=status["sentence"], at=status["alarmed_at"]
    )


async def revoke(store: Store, entry: RevocationEntry | None, risk: LiveRisk) -> bool:
    """Tell the store of an alarm, so that nights know of it; says whether there is nothing left to tell."""
    try:
        if entry is not None:
            await asyncio.to_thread(store.revoke, entry)
    except (CascadeError, OSError) as error:
        risk.lost.add("not_revoked", f"the store does not know of the alarm: {error}")
        return False
    return True


async def _keep_revoked(store: Store, risk: LiveRisk) -> None:
    """Tell the store of an alarm that a process which was killed, or a store that could not be written, has not."""
    told = ""
    while True:
        entry = revocation_in(risk.status())
        if entry is not None and entry.certificate != told and await revoke(store, entry, risk):
            told = entry.certificate
        await asyncio.sleep(REVOCATION_S)


async def _end(tasks: BackgroundTasks) -> None:
    await asyncio.gather(*tasks.cancel(), return_exceptions=True)

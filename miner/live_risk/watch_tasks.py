"""Takes up the watch on the live certificate when a miner starts, and lets it go when it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from engines.live.swap.follower import StoreFollower
from engines.machine.background_tasks import BackgroundTasks, Once, begun_in_thread
from engines.machine.clock import utc_now
from engines.store.records import RevocationEntry
from engines.store.store import Store
from miner.answering.image_queue import CLOSE_S
from miner.events.event import Event, EventSink
from miner.live_risk.auditor import Auditor, roll_back
from miner.live_risk.live_risk import DIRECTORY, LiveRisk
from miner.live_risk.settings import LiveRiskSettings
from stage1.errors import CascadeError
from stage2_bridge.bridge import Bridge

# Between two looks whether the store knows of an alarm.
REVOCATION_S = 30.0
# A store that has not taken an alarm for so long keeps no alarmed bundle live.
TOLD_S = 5.0


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
    stack.push_async_callback(asyncio.to_thread, risk.close, CLOSE_S)
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

    revocations = Revocations(store, risk, tasks)

    async def revoke_and_go_back(entry: RevocationEntry | None) -> None:
        # First, so that whoever is killed in between finds the alarm with the live bundle; but not for a store that
        # hangs.
        revocations.note(entry)
        await asyncio.wait([revocations.begin()], timeout=TOLD_S)
        if risk.settings.reaction == "rollback":
            await roll_back(risk, follower, utc_now)

    def react() -> None:
        # At once, for the status is soon that of the bundle before.
        entry = revocation_in(risk.status())
        loop.call_soon_threadsafe(lambda: tasks.begin(revoke_and_go_back(entry)))

    risk.react = react
    tasks.begin(auditor.run())
    tasks.begin(revocations.run())
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


class Revocations:
    """Tells the store of alarms, so that nights know of them; of each until it is told, by a thread.

    Args:
        store: is told.
        risk: says what has an alarm.
        tasks: where it runs.
    """

    def __init__(self, store: Store, risk: LiveRisk, tasks: BackgroundTasks) -> None:
        self._store, self._risk = store, risk
        self._untold: dict[str, RevocationEntry] = {}
        self._told: set[str] = set()
        self._telling = Once(tasks)

    def note(self, entry: RevocationEntry | None) -> None:
        """Have an alarm told, unless it was; None is nothing."""
        if entry is not None and entry.certificate not in self._told:
            self._untold[entry.certificate] = entry

    def begin(self) -> asyncio.Task[object]:
        """Tell what is not told, unless that is under way; returns its task."""
        return self._telling.begin(self._tell)

    async def run(self) -> None:
        """Tell, for ever, also of an alarm that a process which was killed has not told."""
        while True:
            self.note(revocation_in(self._risk.status()))
            self.begin()
            await asyncio.sleep(REVOCATION_S)

    async def _tell(self) -> None:
        tried: set[str] = set()
        # Also what is noted meanwhile, for whoever noted it waits for this.
        while certificate := next((one for one in self._untold if one not in tried), None):
            tried.add(certificate)
            try:
                await begun_in_thread(partial(self._store.revoke, self._untold[certificate]), "revocation")
            except (CascadeError, OSError) as error:
                self._risk.lost.add("not_revoked", f"the store does not know of the alarm: {error}")
            else:
                self._told.add(certificate)
                del self._untold[certificate]


async def _end(tasks: BackgroundTasks) -> None:
    await asyncio.gather(*tasks.cancel(), return_exceptions=True)

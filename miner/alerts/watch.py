"""Everything that tells of a miner from afar, put together and started with it."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import structlog
from pydantic import JsonValue

from engines.errors import StoreError
from engines.store.store import Store
from miner.admin.live_miner import LiveMiner
from miner.admin.readiness import conditions as readiness
from miner.alerts.edges import Edges
from miner.alerts.miner_reader import Disks, MinerReader, RecentAnswers
from miner.alerts.rules import conditions
from miner.alerts.sender import Sender, ping
from miner.alerts.settings import AlertSettings, address
from miner.events.event import Event
from stage1.errors import SettingsError

log = structlog.get_logger(__name__)

LOOK_S = 15.0
FILE = "alerts.json"
# An event that tells of a rollback itself, and why.
CANARY_BACK = "canary_rolled_back"
# After seven seconds for requests in flight, within the nine that a stop may take.
FLUSH_S = 1.0


class Alerts:
    """Sends events, and looks at a miner for conditions to send.

    Args:
        settings: what is sent, and where to.
        state: directory of the miner.
        environment: its variables.
        now: wall-clock time, UTC.
        clock: monotonic time in seconds.

    Attributes:
        answers: an observer of the answers, whom the rules ask.
        sender: sends messages, None if only an address is asked.

    Raises:
        SettingsError: an address is not there, or is none.
    """

    def __init__(
        self,
        settings: AlertSettings,
        state: Path,
        environment: Mapping[str, str],
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            url = address(settings.url_env, settings.url_file, dict(environment), "url")
            self._ping = address(settings.ping_env, settings.ping_file, dict(environment), "ping")
        except ValueError as error:
            raise SettingsError(str(error)) from error
        self._settings = settings
        self._now = now
        self._clock = clock
        self._client = httpx2.AsyncClient()
        self._edges = Edges(state / FILE)
        named = f"{socket.gethostname()}, {state.resolve().name}"
        self.sender = None if url is None else Sender(settings, url, named, self._client, now=now, clock=clock)
        self.answers = RecentAnswers(clock)
        self._bundle: str | None = None
        self._told_back: str | None = None
        self._rejected: Callable[[], Mapping[str, str]] = dict
        self._tasks: list[asyncio.Task[None]] = []

    def event(self, event: Event) -> None:
        """Send an event; see `miner.events.event.EventSink.event`."""
        if event.kind == CANARY_BACK:
            self._told_back = str(event.details.get("bundle"))
        if self.sender is not None:
            self.sender.event(event)

    def status(self) -> dict[str, Any]:
        """What was told and holds still, and how many messages could not be sent."""
        failed = 0 if self.sender is None else self.sender.failed
        return {"held": self._edges.held, "failed": failed}

    def start(self, miner: LiveMiner, night_due: Callable[[], bool], store: Store, directories: Sequence[Path]) -> None:
        """Begin to look and to send.

        Args:
            miner: what is looked at.
            night_due: whether nights are on.
            store: says which bundles were rolled back.
            directories: whose disks must have room, beside that of the store.
        """
        self._rejected = store.rejected
        reader = MinerReader(miner, self.answers, night_due=night_due, directories=[store.root, *directories])
        self._bundle = miner.follower.live_id
        if self.sender is not None:
            self._tasks.append(asyncio.create_task(self.sender.run(), name="send alerts"))
            self._tasks.append(asyncio.create_task(self._look(reader, miner), name="look for alerts"))
        if self._ping is not None:

            def well() -> bool:
                return all(one.holds for one in readiness(miner))

            self._tasks.append(asyncio.create_task(ping(self._client, self._ping, self._settings.ping_s, well)))

    async def close(self) -> None:
        """Send what waits, if that is quick, and stop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.sender is not None:
            try:
                await asyncio.wait_for(self.sender.flush(), FLUSH_S)
            except TimeoutError:
                log.info("alerts_left")
        await self._client.aclose()

    async def _look(self, reader: MinerReader, miner: LiveMiner) -> None:
        disks = Disks(reader.free_bytes)
        while True:
            try:
                self.look(reader, miner.follower.live_id, await disks.free_bytes())
            except Exception:
                # Who tells of faults must not end by one.
                log.exception("alerts_failed")
            await asyncio.sleep(LOOK_S)

    def look(self, reader: MinerReader, bundle: str | None, free_bytes: Mapping[str, int | None]) -> None:
        """Look once.

        Args:
            reader: reads the miner.
            bundle: id of the live bundle.
            free_bytes: free space by directory, None where it cannot be told.
        """
        before, self._bundle = self._bundle, bundle
        if bundle != before and bundle is not None and before != self._told_back:
            self.event(self._replaced(bundle, before))
        found = conditions(reader.read(self._clock(), free_bytes), self._settings)
        for event in self._edges.compare(found, self._now()):
            self.event(event)

    def _replaced(self, bundle: str, before: str | None) -> Event:
        """That another bundle is live: a newer one, or an older one again."""
        details: dict[str, JsonValue] = {"bundle": bundle, "before": before}
        try:
            why = None if before is None else self._rejected().get(before)
        except (StoreError, OSError):
            # A record of the store that is damaged.
            why = None
        if why is not None:
            text = f"Bundle {bundle} is live again: {before} {why}."
            return Event("rollback", "warning", text, details | {"reason": why})
        told = f"Bundle {bundle} is live in the place of {before}." if before else f"{bundle} is live."
        return Event("bundle_live", "info", told, details)


async def try_once(
    settings: AlertSettings, state: Path, environment: Mapping[str, str], *, now: Callable[[], datetime]
) -> str:
    """Send one message, and say what came of it.

    Args:
        settings: what is sent, and where to.
        state: directory of the miner.
        environment: its variables.
        now: wall-clock time, UTC.

    Raises:
        SettingsError: no receiver is set, or its address is none, or it did not take the message.
    """
    alerts = Alerts(settings, state, environment, now=now)
    try:
        if alerts.sender is None:
            raise SettingsError("nobody is told: set alerts.url_env or alerts.url_file")
        if (
            why := await alerts.sender.attempt(Event("test", "alarm", "This is a test; nothing is wrong."))
        ) is not None:
            raise SettingsError(f"the receiver did not take it: {why}; check its address and alerts.form")
    finally:
        await alerts.close()
    return f"sent, as {settings.form}: look whether it arrived"

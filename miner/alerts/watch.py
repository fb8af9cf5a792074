"""Everything that tells of a miner from afar, put together and started with it."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import structlog
from pydantic import JsonValue

from engines.errors import StoreError
from engines.machine.background_tasks import is_over
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.disk.latest import Latest
from engines.store.store import Store
from miner.admin.live_miner import LiveMiner
from miner.admin.readiness import conditions as readiness
from miner.alerts.edges import Edges
from miner.alerts.miner_reader import Disks, MinerReader, RecentAnswers
from miner.alerts.receiver_check import receiver_fault
from miner.alerts.rules import conditions, undecided
from miner.alerts.sender import Sender, ping
from miner.alerts.settings import AlertSettings
from miner.alerts.switch import addresses
from miner.events.event import Event
from stage1.errors import SettingsError

log = structlog.get_logger(__name__)

LOOK_S = 15.0
# Longest wait for a record of the store.
READ_S = 10.0
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
        edges: what was told to have begun.
        disk: touches what the alerts keep, and the records of the store.

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
        url, self._ping = addresses(settings, environment)
        self._settings = settings
        self._now = now
        self._clock = clock
        self._trusted = httpx2.create_ssl_context()
        self._client = httpx2.AsyncClient(verify=self._trusted)
        self._addresses = {"messages": url, "signs of life": self._ping}
        self.disk = DiskThread("alerts")
        self.edges = Edges(state / FILE, disk=self.disk)
        named = f"{socket.gethostname()}, {state.resolve().name}"
        self.sender = None if url is None else Sender(settings, url, named, self._client, now=now, clock=clock)
        self.answers = RecentAnswers(clock)
        self._bundle: str | None = None
        self._told_back: str | None = None
        self._rejected: Latest[Mapping[str, str]] | None = None
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
        return {"held": self.edges.held, "failed": failed}

    def start(self, miner: LiveMiner, night_due: Callable[[], bool], store: Store, directories: Sequence[Path]) -> None:
        """Begin to look and to send.

        Args:
            miner: what is looked at.
            night_due: whether nights are on.
            store: says which bundles were rolled back.
            directories: whose disks must have room, beside that of the store.
        """
        self._rejected = Latest(self.disk, partial(_rejected, store), {})
        reader = MinerReader(miner, self.answers, night_due=night_due, directories=[store.root, *directories])
        self._bundle = miner.follower.live_id
        self._tasks.append(asyncio.create_task(self._tell_faults(), name="check the receivers of alerts"))
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
        self.edges.keep()
        await is_over(self.disk.submit(lambda: None), FLUSH_S)
        if self.sender is not None:
            try:
                async with asyncio.timeout(FLUSH_S):
                    await self.sender.flush()
            except TimeoutError:
                log.info("alerts_left")
        await self._client.aclose()

    async def _look(self, reader: MinerReader, miner: LiveMiner) -> None:
        disks = Disks(reader.free_bytes)
        while True:
            try:
                free_bytes = await disks.free_bytes()
                await miner.look(store=False)
                if self._rejected is not None and miner.follower.live_id != self._bundle:
                    await self._rejected.look(READ_S)
                self.look(reader, miner.follower.live_id, free_bytes)
            except Exception:
                # Who tells of faults must not end by one.
                log.exception("alerts_failed")
            await asyncio.sleep(LOOK_S)

    async def _tell_faults(self) -> None:
        """At the start, and not when the first alarm does not arrive."""
        for what, why in await _faults(self._addresses, self._trusted):
            log.error("alert_receiver_refused", of=what, reason=why, remedy="mend it: no message arrives until then")

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
        clock_s, settings = self._clock(), self._settings
        reading = reader.read(clock_s, free_bytes)

        def unknown(name: str) -> bool:
            return undecided(name, reading, settings)

        for event in self.edges.compare(conditions(reading, settings), self._now(), unknown, clock_s=clock_s):
            self.event(event)

    def _replaced(self, bundle: str, before: str | None) -> Event:
        """That another bundle is live: a newer one, or an older one again."""
        details: dict[str, JsonValue] = {"bundle": bundle, "before": before}
        why = None if before is None or self._rejected is None else self._rejected.value.get(before)
        if why is not None:
            text = f"Bundle {bundle} is live again: {before} {why}."
            return Event("rollback", "warning", text, details | {"reason": why})
        told = f"Bundle {bundle} is live in the place of {before}." if before else f"{bundle} is live."
        return Event("bundle_live", "info", told, details)


async def receiver_faults(settings: AlertSettings) -> list[tuple[str, str]]:
    """Of each address where no message will ever arrive, what it is for, and why; nothing is sent.

    Raises:
        SettingsError: an address is not there, or is none.
    """
    url, ping_url = addresses(settings)
    return await _faults({"messages": url, "signs of life": ping_url}, httpx2.create_ssl_context())


async def _faults(urls: Mapping[str, str | None], trusted: ssl.SSLContext) -> list[tuple[str, str]]:
    asked = {what: url for what, url in urls.items() if url is not None}
    found = await asyncio.gather(*(receiver_fault(url, trusted) for url in asked.values()))
    return [(what, why) for what, why in zip(asked, found, strict=True) if why is not None]


def _rejected(store: Store) -> Mapping[str, str]:
    try:
        return store.rejected()
    except (StoreError, OSError):
        # A record of the store that is damaged.
        return {}


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

"""Sends messages, one after the other, beside the requests: a receiver that is slow or away costs no answer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any

import httpx2
import structlog

from engines.remote.tls import tls_fault
from miner.alerts.message import message
from miner.alerts.settings import AlertSettings
from miner.events.event import Event, Level

log = structlog.get_logger(__name__)

TIMEOUT_S, HOUR_S = 10.0, 3600.0
# Between the attempts of one message.
PAUSES_S = (1.0, 10.0, 60.0)
MOST_WAITING = 200
LEVELS = ("info", "warning", "alarm")
TOO_MANY = 429


class Sender:
    """An `EventSink` that sends to one receiver.

    Args:
        settings: what is sent, and how much.
        url: address of the receiver, which is a secret.
        miner: which miner it is, for a person.
        client: sends.
        now: wall-clock time, UTC.
        clock: monotonic time in seconds.
        pauses_s: between the attempts of one message.
    """

    def __init__(
        self,
        settings: AlertSettings,
        url: str,
        miner: str,
        client: httpx2.AsyncClient,
        *,
        now: Callable[[], datetime],
        clock: Callable[[], float],
        pauses_s: tuple[float, ...] = PAUSES_S,
    ) -> None:
        self._settings = settings
        self._url = url
        self._miner = miner
        self._client = client
        self._now = now
        self._clock = clock
        self._pauses_s = pauses_s
        self._waiting: deque[tuple[Event, str]] = deque()
        self._wake = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sent: deque[float] = deque()
        self._unsent = 0
        self._between_attempts = False
        self.failed = 0

    def event(self, event: Event) -> None:
        """Take note, if it matters enough; from any thread. See `miner.events.event.EventSink.event`."""
        if LEVELS.index(event.level) < LEVELS.index(self._settings.least):
            return
        if len(self._waiting) >= MOST_WAITING:
            self._unsent += 1
            less = next((one for one in self._waiting if one[0].level != "alarm"), None)
            if event.level != "alarm" or less is None:
                return
            self._waiting.remove(less)
        self._waiting.append((event, self._now().isoformat()))
        if self._loop is None:
            self._wake.set()
        else:
            self._loop.call_soon_threadsafe(self._wake.set)

    async def run(self) -> None:
        """Send what comes, until cancelled."""
        self._loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what waits."""
        while self._waiting:
            event, at = self._waiting.popleft()
            if self._too_many(event.level):
                self._unsent += 1
                continue
            unsent, self._unsent = self._unsent, 0
            try:
                delivered = await self._delivered(self._body(event, at, unsent))
            except asyncio.CancelledError:
                if self._between_attempts:
                    # It has not arrived: whoever ends this sends what waits once more.
                    self._waiting.appendleft((event, at))
                    self._unsent += unsent
                raise
            if not delivered:
                self._unsent += unsent + 1
                self.failed += 1

    async def attempt(self, event: Event) -> str | None:
        """Send one at once and once; why it did not arrive, None if it did."""
        why, _ = await self._post(self._body(event, self._now().isoformat(), 0))
        return why

    def _body(self, event: Event, at: str, unsent: int) -> dict[str, Any]:
        settings = self._settings
        return message(event, settings.form, miner=self._miner, at=at, unsent=unsent, chat=settings.chat)

    def _too_many(self, level: Level) -> bool:
        # An alarm is told once and has no second chance, so news leave it half of the room.
        most = self._settings.per_hour if level == "alarm" else max(1, self._settings.per_hour // 2)
        now = self._clock()
        while self._sent and now - self._sent[0] >= HOUR_S:
            self._sent.popleft()
        if len(self._sent) >= most:
            return True
        self._sent.append(now)
        return False

    async def _delivered(self, body: dict[str, Any]) -> bool:
        why: str | None = ""
        for pause in (*self._pauses_s, None):
            self._between_attempts = False
            why, again = await self._post(body)
            if why is None:
                return True
            if not again or pause is None:
                break
            self._between_attempts = True
            await asyncio.sleep(pause)
        log.warning("alert_not_sent", reason=why, remedy="see `cascade alerts test`")
        return False

    async def _post(self, body: dict[str, Any]) -> tuple[str | None, bool]:
        """Why a message did not arrive, None if it did, and whether another attempt may help."""
        try:
            reply = await self._client.post(self._url, json=body, timeout=TIMEOUT_S)
        except (httpx2.HTTPError, OSError) as error:
            if (fault := tls_fault(error)) is not None:
                return fault, False
            # Its text may hold the address.
            return type(error).__name__, True
        except (httpx2.InvalidURL, ValueError) as error:
            return type(error).__name__, False
        if reply.is_success:
            return None, False
        return f"status {reply.status_code}", not reply.is_client_error or reply.status_code == TOO_MANY


async def ping(client: httpx2.AsyncClient, url: str, every_s: float, well: Callable[[], bool]) -> None:
    """Ask an address again and again while the miner is well, until cancelled: who expects it warns when it stays away.

    Args:
        client: asks.
        url: the address, which is a secret.
        every_s: seconds between two times.
        well: whether the miner answers validators.
    """
    while True:
        try:
            if well():
                await client.get(url, timeout=TIMEOUT_S)
        except Exception as error:  # noqa: BLE001  who tells of faults must not end by one
            # Its text may hold the address.
            log.debug("ping_failed", reason=type(error).__name__)
        await asyncio.sleep(every_s)

"""Turns alerts on and off while the miner runs, and gives them other settings; the HTTP client is loaded when on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.machine.background_tasks import begun_in_thread
from engines.machine.clock import utc_now
from engines.machine.disk.disk_thread import DiskThread
from engines.store.store import Store
from miner.admin.live_miner import LiveMiner
from miner.alerts.settings import AlertSettings, address
from miner.answering.record import RequestRecord
from miner.events.event import Event
from stage1.errors import SettingsError

if TYPE_CHECKING:
    from miner.alerts.watch import Alerts

Addresses = tuple[str | None, str | None]


class AlertSwitch:
    """A sink of events and an observer of answers, which tells nobody while nobody is to be told.

    Args:
        settings: what is sent, and where to.
        state: directory of the miner.

    Raises:
        SettingsError: an address is not there, or is none.
    """

    def __init__(self, settings: AlertSettings, state: Path) -> None:
        self._state = state
        self._in_force = settings, addresses(settings)
        self._alerts = self._opened(settings)
        self._started: tuple[LiveMiner, Callable[[], bool], Store, Sequence[Path]] | None = None

    def event(self, event: Event) -> None:
        """See `miner.events.event.EventSink.event`."""
        if (alerts := self._alerts) is not None:
            alerts.event(event)

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer`."""
        if self._alerts is not None:
            self._alerts.answers.on_answer(record)

    def status(self) -> dict[str, Any]:
        """See `Alerts.status`; empty while nobody is told."""
        return {} if self._alerts is None else self._alerts.status()

    @property
    def disk(self) -> DiskThread | None:
        """The thread that has the disk; None while nobody is told."""
        return None if self._alerts is None else self._alerts.disk

    def start(self, miner: LiveMiner, night_due: Callable[[], bool], store: Store, directories: Sequence[Path]) -> None:
        """See `Alerts.start`."""
        self._started = miner, night_due, store, directories
        if self._alerts is not None:
            self._alerts.start(*self._started)

    async def change(self, settings: AlertSettings) -> None:
        """Go on with other settings; what waits to be sent is sent as before, if that is quick.

        Raises:
            SettingsError: an address is not there, or is none; then it goes on as before.
        """
        wanted = settings, await begun_in_thread(partial(addresses, settings), "alerts")
        if wanted == self._in_force:
            return
        before, after = self._alerts, await begun_in_thread(partial(self._opened, settings), "alerts")
        if before is not None and after is not None:
            # How long nobody has got an answer does not begin anew, and what was told holds.
            after.answers, after.edges, after.disk = before.answers, before.edges, before.disk
        self._alerts, self._in_force = after, wanted
        if before is not None:
            await before.close()
        if after is not None and self._started is not None:
            after.start(*self._started)

    async def close(self) -> None:
        """See `Alerts.close`."""
        alerts, self._alerts = self._alerts, None
        if alerts is not None:
            await alerts.close()

    def _opened(self, settings: AlertSettings) -> Alerts | None:
        if not settings.on:
            return None
        from miner.alerts.watch import Alerts  # noqa: PLC0415

        return Alerts(settings, self._state, os.environ, now=utc_now)


def addresses(settings: AlertSettings, environment: Mapping[str, str] = os.environ) -> Addresses:
    """Where messages go; a file may say another address while its name is the same.

    Args:
        settings: name the variables or the files that hold them.
        environment: its variables.

    Raises:
        SettingsError: one is not there, or is none.
    """
    known = dict(environment)
    try:
        url = address(settings.url_env, settings.url_file, known, "url")
        return url, address(settings.ping_env, settings.ping_file, known, "ping")
    except ValueError as error:
        raise SettingsError(str(error)) from error

"""The daily look of a running miner for a newer release."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from engines.machine.background_tasks import begun_in_thread
from miner.events.event import Event, EventSink
from miner.update.check import FILE, UpdateAnswer, UpdateNotChecked, installed_version, last_answer, look
from miner.update.settings import UpdateSettings

log = structlog.get_logger(__name__)

# Not while a miner has its first requests to answer, and not all miners at the full hour.
FIRST_S, EVERY_S, AGAIN_S = 300.0, 86_400.0, 3_600.0


class UpdateWatch:
    """Asks once a day, and tells of each newer release once.

    Args:
        settings: whom to ask.
        state: where the last answer is kept.
        events: told of a newer release.
        now: wall-clock time, UTC.
        installed: version of this program.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        state: Path,
        events: EventSink,
        *,
        now: Callable[[], datetime],
        installed: str | None = None,
    ) -> None:
        self._settings = settings
        self._state = state
        self._events = events
        self._now = now
        self._installed = installed or installed_version()
        self._last = last_answer(state)

    def status(self) -> dict[str, Any]:
        """The last answer, and whether it names a newer release than the one that runs."""
        if self._last is None:
            return {}
        plain = self._last.model_dump(exclude={"schema_version", "notes"})
        return {**plain, "installed": self._installed, "newer": self._last.newer_than(self._installed)}

    async def run(self) -> None:
        """Look, and look again, until cancelled."""
        pause_s = FIRST_S
        while True:
            await asyncio.sleep(pause_s)
            pause_s = EVERY_S if await self.look() else AGAIN_S

    async def look(self) -> bool:
        """Look once, in a thread; whether there was an answer."""
        try:
            asked = partial(look, self._settings, installed=self._installed, now=self._now)
            # A server that is slow would hold up the stop of the miner.
            found = await begun_in_thread(asked, "update")
            await begun_in_thread(partial(found.write, self._state / FILE), "update")
        except (UpdateNotChecked, OSError) as error:
            log.info("update_not_checked", reason=str(error))
            return False
        told, self._last = self._last, found
        if found.newer_than(self._installed) and not _told(told, found):
            self._events.event(
                Event(
                    "update_available",
                    "info",
                    f"Release {found.newest} is published; {self._installed} runs. `cascade update check` says what is "
                    "new.",
                    {"newest": found.newest, "installed": self._installed},
                )
            )
        return True


def _told(before: UpdateAnswer | None, found: UpdateAnswer) -> bool:
    """Whether the same release was found before, perhaps before a restart."""
    return before is not None and before.newest == found.newest

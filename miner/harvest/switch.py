"""Turns the harvest on and off while the miner runs, and gives it other settings."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from engines.machine.background_tasks import begun_in_thread
from engines.machine.disk.disk_thread import DiskThread
from miner.answering.image_queue import CLOSE_S
from miner.answering.record import SeenImage
from miner.harvest.harvest import DIRECTORY, Harvest
from miner.harvest.settings import HarvestSettings
from miner.live_risk.audit_events import Drawn
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.secret import read_secret


class HarvestSwitch:
    """An observer of images that keeps nothing while the harvest is off.

    Args:
        settings: which images are kept.
        state: directory of what must survive a restart.
        risk: the watch, which knows what is audited, what audits contradict, and whether scores drift.

    Raises:
        stage1.errors.ArtifactError: the key of the draws cannot be read.
        OSError: the store cannot be opened.
    """

    def __init__(self, settings: HarvestSettings, state: Path, risk: LiveRisk | None) -> None:
        self._home = state / DIRECTORY
        self._risk = risk
        self._settings = settings
        self._harvest = self._opened(settings)
        if risk is not None:
            risk.audited, risk.contradicted = self.take_audited, self.take_contradicted

    @property
    def disk(self) -> DiskThread | None:
        """The thread that has the disk; None while the harvest is off."""
        return None if self._harvest is None else self._harvest.queue.disk

    def on_image(self, seen: SeenImage) -> None:
        """See `miner.answering.record.ImageObserver`."""
        if self._harvest is not None:
            self._harvest.on_image(seen)

    def take_audited(self, drawn: Drawn, content: bytes) -> None:
        """See `Harvest.take_audited`."""
        if (harvest := self._harvest) is not None:
            harvest.take_audited(drawn, content)

    def take_contradicted(self, drawn: Drawn, probability: float, content: bytes) -> None:
        """See `Harvest.take_contradicted`."""
        if (harvest := self._harvest) is not None:
            harvest.take_contradicted(drawn, probability, content)

    def status(self) -> dict[str, object]:
        """Plain values for the status; empty while nothing is kept."""
        return {} if self._harvest is None else self._harvest.status()

    async def change(self, settings: HarvestSettings) -> None:
        """Go on with other settings; images that come meanwhile are not kept, whatever they show.

        Raises:
            stage1.errors.ArtifactError: the key of the draws cannot be read.
            OSError: the store cannot be opened. In both cases it goes on as before.
        """
        before = self._settings
        # Not in a thread that the end of the process waits for.
        await begun_in_thread(self.close, "harvest")
        try:
            self._harvest = await begun_in_thread(partial(self._opened, settings), "harvest")
        except Exception:
            self._harvest = await begun_in_thread(partial(self._opened, before), "harvest")
            raise
        self._settings = settings

    def close(self, wait_s: float | None = None) -> None:
        """Write what waits, and keep nothing more; see `Harvest.close`."""
        harvest, self._harvest = self._harvest, None
        if harvest is not None:
            harvest.close(wait_s)

    def _opened(self, settings: HarvestSettings) -> Harvest | None:
        if not settings.enabled:
            return None
        self._home.mkdir(parents=True, exist_ok=True)
        secret = read_secret(self._home)
        if self._risk is None:
            return Harvest(self._home, settings, secret=secret)
        return Harvest(self._home, settings, secret=secret, drifts=self._risk.drifts)


def open_harvest(settings: HarvestSettings, state: Path, risk: LiveRisk | None, stack: AsyncExitStack) -> HarvestSwitch:
    """The harvest, which the stack closes.

    Args:
        settings: which images are kept; perhaps none.
        state: directory of what must survive a restart.
        risk: the watch.
        stack: closes it.

    Raises:
        stage1.errors.ArtifactError: the key of the draws cannot be read.
    """
    switch = HarvestSwitch(settings, state, risk)
    stack.push_async_callback(asyncio.to_thread, switch.close, CLOSE_S)
    return switch

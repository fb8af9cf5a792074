"""Settings that change while the miner runs: read again on SIGHUP, taken over where that needs no restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from miner.settings import MinerSettings
from stage1.errors import CascadeError

log = structlog.get_logger(__name__)

Take = Callable[[MinerSettings], Awaitable[None]]


class SettingsReload:
    """Reads the settings again and hands them to whoever can take them.

    Settings that do not fit change nothing: the miner goes on with those that it has.

    Args:
        settings: those in force.
        read: reads them anew, from where they came.
        takers: by section of the settings, who takes a change of it; sections that one taker shares are given together.
    """

    def __init__(
        self, settings: MinerSettings, read: Callable[[], MinerSettings], takers: Mapping[tuple[str, ...], Take]
    ) -> None:
        self._in_force = settings
        self._read = read
        self._takers = takers

    async def again(self) -> list[str]:
        """Read the settings and take over what changed.

        Returns:
            The sections that were taken over.
        """
        try:
            wanted = self._read()
        except CascadeError as error:
            log.error("settings_not_read", reason=str(error), consequence="the miner goes on with those that it has")
            return []
        taken: list[str] = []
        for sections, take in self._takers.items():
            changed = self._changed(wanted, sections)
            if not changed:
                continue
            update = {section: getattr(wanted, section) for section in sections}
            try:
                await take(self._in_force.model_copy(update=update))
            except CascadeError as error:
                log.error("settings_not_taken", sections=changed, reason=str(error), consequence="the old ones stay")
                continue
            self._in_force = self._in_force.model_copy(update=update)
            taken += changed
        if taken:
            log.info("settings_taken", sections=taken)
        if waiting := self._changed(wanted, MinerSettings.model_fields):
            log.warning("settings_need_restart", sections=waiting, remedy="restart the miner to have them take effect")
        return taken

    def _changed(self, wanted: MinerSettings, sections: Iterable[str]) -> list[str]:
        return [one for one in sections if getattr(wanted, one) != getattr(self._in_force, one)]

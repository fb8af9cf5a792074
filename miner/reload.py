"""Settings that change while the miner runs: read again on SIGHUP, taken over where that needs no restart."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet

import structlog

from engines.machine.background_tasks import begun_in_thread
from miner.settings import MinerSettings
from stage1.errors import CascadeError, SettingsError

log = structlog.get_logger(__name__)

Take = Callable[[MinerSettings], Awaitable[None]]


class SettingsReload:
    """Reads the settings again and hands them to whoever can take them.

    Settings that do not fit change nothing: the miner goes on with those that it has.

    Args:
        settings: those in force.
        read: reads them anew, from where they came.
        takers: by section of the settings, who takes a change of it; sections that one taker shares are given together.
        names_files: sections that name files. Their takers are asked each time, for a file may be another one while
            its name is the same.
    """

    def __init__(
        self,
        settings: MinerSettings,
        read: Callable[[], MinerSettings],
        takers: Mapping[tuple[str, ...], Take],
        names_files: AbstractSet[str] = frozenset(),
    ) -> None:
        self._in_force = settings
        self._read = read
        self._takers = takers
        self._names_files = names_files

    async def again(self) -> list[str]:
        """Read the settings and take over what changed.

        Returns:
            The sections that were taken over.
        """
        try:
            wanted = await begun_in_thread(self._read, "settings")
        except (CascadeError, OSError) as error:
            log.error("settings_not_read", reason=str(error), consequence="the miner goes on with those that it has")
            return []
        taken: list[str] = []
        refused: list[str] = []
        left = set(self._takers)
        while unfit := await self._round(wanted, left, taken, refused):
            if unfit.keys() == left:
                # They fit what else is wanted, which needs a restart.
                for sections, why in unfit.items():
                    _tell_refused(self._changed(wanted, sections), why)
                break
            # What does not fit may fit what was taken over meanwhile.
            left = set(unfit)
        if taken:
            log.info("settings_taken", sections=taken)
        # A start would refuse what was refused here.
        if waiting := [one for one in self._changed(wanted, MinerSettings.model_fields) if one not in refused]:
            log.warning("settings_need_restart", sections=waiting, remedy="restart the miner to have them take effect")
        return taken

    async def _round(
        self, wanted: MinerSettings, asked: AbstractSet[tuple[str, ...]], taken: list[str], refused: list[str]
    ) -> dict[tuple[str, ...], str]:
        """Hand what changed to these takers, and note the sections; why some of them do not fit those in force."""
        unfit: dict[tuple[str, ...], str] = {}
        for sections, take in self._takers.items():
            changed = self._changed(wanted, sections) if sections in asked else []
            if sections not in asked or (not changed and self._names_files.isdisjoint(sections)):
                continue
            try:
                mixed = self._in_force.with_sections({section: getattr(wanted, section) for section in sections})
            except SettingsError as error:
                unfit[sections] = str(error)
                continue
            try:
                await take(mixed)
            except (CascadeError, OSError) as error:
                _tell_refused(changed or list(sections), str(error))
                refused += changed
                continue
            self._in_force = mixed
            taken += changed
        return unfit

    def _changed(self, wanted: MinerSettings, sections: Iterable[str]) -> list[str]:
        return [one for one in sections if getattr(wanted, one) != getattr(self._in_force, one)]


def _tell_refused(sections: list[str], why: str) -> None:
    log.error("settings_not_taken", sections=sections, reason=why, consequence="the old ones stay")

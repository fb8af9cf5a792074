"""The way to Stage-2 of a running miner: opened at the start, changed while it runs, closed at the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from engines.machine.background_tasks import BackgroundTasks, begun_in_thread
from engines.machine.disk.disk_thread import DiskThread
from stage1.errors import SettingsError
from stage2_bridge.bridge import Bridge
from stage2_bridge.calibration.live import Calibrations
from stage2_bridge.calibration.recorded_order import RecordedOrder
from stage2_bridge.client import ServerIdentity
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.servers.member import close_all
from stage2_bridge.servers.open_server import made_of, servers_of
from stage2_bridge.servers.preferred import PreferredServers
from stage2_bridge.settings import Stage2Settings

log = structlog.get_logger(__name__)

BUDGET_FILE = "stage2_budget"
# For a model that is loaded by its first request.
START_S = 60.0
# Longest time in which replaced servers answer what is under way there.
RETIRE_S = 60.0
# Longest wait for the disk at the end.
CLOSE_S = 3.0


class HandOff:
    """Holds the bridge, the servers behind it and the budget.

    Args:
        settings: of them.
        state: directory of what must survive a restart.
        calibrations: what is known of the servers; None for nothing.
        clock: monotonic time in seconds.
        now: wall-clock time in seconds since 1970.

    Raises:
        engines.errors.EngineError: the engine in this process cannot be loaded.
        stage1.errors.Stage1Error: a file of it, a key or a prompt cannot be read, or the budget not written.

    Attributes:
        bridge: the way to Stage-2, for as long as the miner runs.
        disk: the thread that has the disk of the budget.
    """

    def __init__(
        self,
        settings: Stage2Settings,
        state: Path,
        calibrations: Calibrations | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = state / BUDGET_FILE
        self._clock, self._now = clock, now
        self.disk = DiskThread("budget")
        self._calibrations = calibrations or Calibrations(None)
        self._first = _first(settings)
        self._settings, self._made_of = settings, _made_of(settings)
        self._tasks = BackgroundTasks()
        self._looking: list[asyncio.Task[object]] = []
        self._retired: list[tuple[PreferredServers, PreferredServers | None]] = []
        self._budget = self._opened_budget(settings)
        try:
            self._servers = servers_of(settings, clock, self._budget) if settings.is_asked else None
        except BaseException:
            if self._budget is not None:
                self._budget.close()
            raise
        self.bridge = Bridge(
            self._servers,
            max_in_flight=settings.hand_offs,
            max_waiting=settings.max_waiting,
            cache=settings.cache,
            calibrated=self._calibrations.calibrated,
            clock=clock,
        )
        _tell_none(settings)

    def begin(self) -> None:
        """Look at the servers and keep an eye on them, beside everything else."""
        self._tasks.begin(self.bridge.watch())
        self._look()

    async def change(self, settings: Stage2Settings) -> None:
        """Go on with other servers or other settings of them; what is under way ends where it began.

        Nothing happens where the settings and all files that they name are the same.

        Args:
            settings: of the servers.

        Raises:
            engines.errors.EngineError: as at the start; nothing has changed then.
            stage1.errors.Stage1Error: as at the start.
        """
        made_of = await begun_in_thread(partial(_made_of, settings), "stage2 files")
        if (settings, made_of) == (self._settings, self._made_of):
            return
        old, new_budget = self._servers, self._budget is None and settings.is_asked
        # Behind the last line of a budget before, if there was one.
        opened = partial(self._opened_budget, settings)
        budget = await self.disk.run(opened) if new_budget else self._budget
        try:
            # An engine takes seconds to load.
            servers = (
                await begun_in_thread(partial(servers_of, settings, self._clock, budget, old), "stage2 servers")
                if settings.is_asked
                else None
            )
        except BaseException:
            if new_budget and budget is not None:
                budget.close()
            raise
        self._change_budget(settings, budget)
        self.bridge.change(
            servers, max_in_flight=settings.hand_offs, max_waiting=settings.max_waiting, cache=settings.cache
        )
        self._servers, self._first = servers, _first(settings)
        self._calibrations.forget(one for one in made_of if made_of[one] != self._made_of.get(one))
        self._settings, self._made_of = settings, made_of
        if old is not None:
            self._retired.append((old, servers))
            self._tasks.begin(self._retire(old, servers))
        self._look()
        _tell_none(settings)

    async def end(self) -> None:
        """Look at nothing any more: a server that is being closed is none that fails."""
        await asyncio.gather(*self._tasks.cancel(), return_exceptions=True)

    async def close(self) -> None:
        """Close what the bridge does not close: replaced servers that answer still, and the budget."""
        await self.end()
        for old, new in self._retired:
            await _close_those_left(old, new)
        if self._budget is not None:
            await self._budget.closed(CLOSE_S)

    def _look(self) -> None:
        """Look at the present servers; what others are still asked would be told of those who are gone."""
        for task in self._looking:
            task.cancel()
        self._looking = [self._tasks.begin(self._calibrations.watch(self._identities))]
        if self._servers is not None:
            # Not waited for: a server may come up after the miner, and Stage-1 answers until then.
            self._looking.append(self._tasks.begin(look_at(self._servers)))

    def _opened_budget(self, settings: Stage2Settings) -> Budget | None:
        if settings.budget is None or not settings.is_asked:
            return None
        try:
            file = StateFile(self._path)
        except OSError as error:
            raise SettingsError(
                f"{self._path}: the budget cannot be written down: {error.strerror or error}"
            ) from error
        known = self._calibrations
        order = RecordedOrder(lambda: known.gain(self._first), lambda: known.of_live_bundle(self._first))
        return Budget(
            settings.budget,
            settings.dearest_image,
            file,
            clock=self._clock,
            now=self._now,
            order=order,
            disk=self.disk,
        )

    async def _identities(self, timeout_s: float) -> Mapping[str, ServerIdentity | Exception]:
        return {} if self._servers is None else await self._servers.identities(timeout_s)

    def _change_budget(self, settings: Stage2Settings, budget: Budget | None) -> None:
        if budget is not None and settings.budget is not None and settings.is_asked:
            budget.change(settings.budget, settings.dearest_image)
        elif budget is not None:
            # Calls under way belong to no budget any more, unless it is 0.
            budget.close() if settings.budget is not None else budget.lift()
            budget = None
        self._budget = budget

    async def _retire(self, old: PreferredServers, new: PreferredServers | None) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(RETIRE_S):
                await old.idle()
        await _close_those_left(old, new)
        # Not before: whoever is stopped in between leaves it to `close`.
        self._retired.remove((old, new))


def _made_of(settings: Stage2Settings) -> dict[str, object]:
    """By the name of each server what it is made of; see `made_of`."""
    return {one.name: made_of(one) for one in settings.all_servers}


def _first(settings: Stage2Settings) -> str:
    """Name of the server that is asked first: what a hand-off is worth is what it is worth there."""
    return next((one.name for one in settings.all_servers), "")


async def _close_those_left(old: PreferredServers, new: PreferredServers | None) -> None:
    kept = set() if new is None else {id(member.client) for member in new.members}
    await close_all([one for one in old.members if id(one.client) not in kept])


async def look_at(servers: PreferredServers) -> None:
    """Tell at the start, and not with the first request, which servers would not answer as the settings say."""
    for name, told in (await servers.check(START_S)).items():
        if isinstance(told, Exception):
            log.warning("stage2_server_fails", server=name, reason=str(told), remedy="see `cascade stage2 check`")
        else:
            log.info("stage2_server", server=name, told=told)


def _tell_none(settings: Stage2Settings) -> None:
    if not settings.is_asked:
        why = "the budget is 0" if settings.all_servers else "no server is named"
        consequence = "deferred images are answered with Stage-1's calibrated probability"
        log.warning("no_stage2", reason=why, consequence=consequence)

"""The nightly job: retraining in a process of its own, which can crash or hang without a request noticing."""

from __future__ import annotations

import asyncio
import contextlib
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from filelock import FileLock, Timeout
from pydantic import JsonValue

from engines.machine.background_tasks import BackgroundTasks, begun_in_thread, is_over
from engines.machine.disk.disk_thread import DiskThread, said_yes
from engines.machine.disk.latest import Latest
from engines.spec import EngineSpec
from miner.events.event import Event, EventSink
from miner.events.log_sink import LogSink
from miner.nights.crontab import crontab_trigger, missed
from miner.nights.limited_process import NOT_STARTED
from miner.nights.night_command import compile_command, night_command
from miner.nights.night_process import GRACE_S, Bounds, run_process
from miner.nights.outcome import events_of, outcome_of, reason_of
from miner.nights.output import NightOutput
from miner.nights.processes import end_processes, new_token
from miner.nights.record import NIGHTS, OUTPUT, Night, Nights, noted
from miner.nights.settings import RetrainSettings
from miner.nights.status import KeptNights
from stage1.errors import SettingsError
from stage1.settings import dotted

log = structlog.get_logger(__name__)

CHECK_S = 60.0
# Between the attempts of one night.
RETRY_S = (60.0, 300.0, 900.0, 1800.0, 3600.0)
# Between two attempts to own the nights.
OWNER_S = 1.0
LOCK, RECALIBRATION = ".lock", "recalibration.log"
# Of a miner that is told to end, a disk that hangs is asked no longer.
STOP_S = 2.0


class NightlyJob:
    """Starts `cascade retrain` at its time, once at a time, within bounds.

    Nights belong to one process at a time, which holds `nights/.lock` in the state directory: a miner during each of
    its nights, and `cascade nightly` as long as it runs.

    Args:
        settings: when and on what.
        night: values of the run's config that are other than the preset's, as a tree.
        store: where the pipeline publishes.
        state: directory of what is kept of the nights.
        now: wall-clock time, UTC.
        hotkey: ss58 address that the model cards of a night name, unless `night` names another one.
        events: told what comes of the nights; by default the log.
        retry_s: seconds between the attempts of one night that is to be tried again.

    Attributes:
        disk: touches the state directory, so that one that hangs keeps no request waiting.
    """

    def __init__(
        self,
        settings: RetrainSettings,
        *,
        night: Mapping[str, Any] | None = None,
        store: Path,
        state: Path,
        now: Callable[[], datetime],
        hotkey: str | None = None,
        events: EventSink | None = None,
        retry_s: Sequence[float] = RETRY_S,
    ) -> None:
        self._settings = settings
        self._hotkey = hotkey
        self._night = dotted(night or {})
        self._store = store
        self._state = state
        self._now = now
        self._events = events or LogSink()
        self._retry_s = retry_s
        self._nights = Nights(state)
        # One object, so that whoever owns the nights can hold it once more for each of them.
        self._lock = FileLock(state / NIGHTS / LOCK, timeout=0, thread_local=False)
        self.disk = DiskThread("nights")
        self._kept = Latest(self.disk, lambda: KeptNights.read(self._nights), KeptNights())
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._running = asyncio.Lock()
        self._clearing = asyncio.Lock()
        self._output: NightOutput | None = None
        self._again_at: datetime | None = None
        self._outcomes: Counter[str] = Counter()
        self._recalibrating = asyncio.Lock()
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """End what a killed process left of a night; if nights are on, schedule them.

        If the last one that was due was missed, or did not come to its end, it runs now.
        """
        if not self._settings.enabled:
            self._tasks.begin(self.end_left())
            return
        trigger = self._schedule()
        self._scheduler.start()
        self._tasks.begin(self._tell_missing(self._settings.data))
        self._tasks.begin(self._catch_up(trigger))

    async def _tell_missing(self, data: Path | None) -> None:
        # On a thread of its own: it may be on another disk.
        if data is not None and not await begun_in_thread(data.exists, "data"):
            # A disk may be mounted before the night comes, and validators are answered until then.
            text = f"{data} is not there: until it is, no night can succeed"
            self._events.event(Event("night_data_missing", "warning", text, {"data": str(data)}))

    async def _catch_up(self, trigger: CronTrigger) -> None:
        await self.end_left()
        kept = await self.disk.run(lambda: KeptNights.read(self._nights))
        if missed(trigger, kept.last_success, self._now()) or kept.unfinished:
            log.info("retrain_missed", last_success=str(kept.last_success))
            await self.run()

    async def change(self, settings: RetrainSettings, night: Mapping[str, Any]) -> None:
        """Run by other settings from the next run on; one that is under way ends as it began.

        Args:
            settings: when and on what.
            night: as in the constructor.

        Raises:
            SettingsError: a night could not run with them; the old ones stay.
        """
        wanted = NightlyJob(settings, night=night, store=self._store, state=self._state, now=self._now)
        await wanted.check()
        self._settings, self._night = settings, wanted._night
        if self._scheduler.running:
            self._scheduler.remove_all_jobs()
        if not settings.enabled:
            return
        self._schedule()
        if not self._scheduler.running:
            self._scheduler.start()

    def _schedule(self) -> CronTrigger:
        trigger = crontab_trigger(self._settings.cron)
        self._scheduler.add_job(
            self._due, trigger, id="retrain", max_instances=1, coalesce=True, misfire_grace_time=None
        )
        return trigger

    async def _due(self) -> None:
        # A coroutine, which the scheduler runs in this thread and not in one that has no event loop; in the background,
        # where `close` waits for it.
        self.trigger()

    def trigger(self) -> None:
        """Run once, now, in the background."""
        self._tasks.begin(self.run())

    async def check(self) -> None:
        """Have a short child say whether the settings of a night fit, so that it is not known only at night.

        Raises:
            SettingsError: they do not; names each.
        """
        if self._settings.data is None:
            if self._night:
                raise SettingsError("there is a [night] table, and no data to train on: set retrain.data")
            return
        child = await asyncio.create_subprocess_exec(
            *self.command(), "--check-settings", stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE
        )
        try:
            async with asyncio.timeout(CHECK_S):
                _, said = await child.communicate()
        except TimeoutError:
            # A machine as busy as that says nothing of the settings.
            log.warning("night_settings_not_checked", seconds=CHECK_S)
            return
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()
        if child.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or ["it does not say why"]
            why = lines[-1].removeprefix("cascade: ")
            raise SettingsError(f"the nightly job could not run with these settings ([retrain], [night]): {why}")

    async def run(self) -> int | None:
        """Retrain once and wait for the end; what is to be tried again is, a few times.

        Returns:
            The exit status of the last attempt; None if a run was under way already, here or in another process.
        """
        if self._running.locked():
            log.warning("retrain_already_running")
            return None
        # A recalibration would want the workspace too; it takes minutes.
        async with self._running, self._recalibrating, self._clearing:
            try:
                return await self._night_or_none()
            except OSError as error:
                text = f"the night failed: nothing can be written down of it: {error}"
                self._events.event(Event("retrain_failed", "warning", text, {"reason": str(error)}))
                return NOT_STARTED

    async def _night_or_none(self) -> int | None:
        async with self._held() as held:
            if not held:
                log.info("retrain_elsewhere", reason="another process runs the nights of this state directory")
                return None
            await self._end_left()
            for wait in (*self._retry_s, None):
                night = await self._attempt(last=wait is None)
                if night.outcome != "put_off" or wait is None:
                    break
                self._again_at = self._now() + timedelta(seconds=wait)
                await asyncio.sleep(wait)
                self._again_at = None
            return night.record.status

    async def end_left(self) -> None:
        """End what a process that was killed has left running of its nights, and write down that they are lost."""
        async with self._clearing:
            if not await self.disk.run(self._nights.left):
                return
            async with self._held() as held:
                if held:
                    await self._end_left()

    async def _end_left(self) -> None:
        for night in await self.disk.run(self._nights.left):
            number = await end_processes(night.record.token, GRACE_S)
            why = "nobody was left to wait for it"
            await self._note(night.home, outcome="lost", ended_at=self._now(), reason=why)
            text = f"a night that nobody waits for any more was found; {number} of its processes ran and were ended"
            self._events.event(Event("retrain_left", "warning", text, {"processes": number, "night": night.home.name}))

    async def _note(self, home: Path, **changes: object) -> Night:
        try:
            return await self.disk.run(lambda: noted(home, **changes))
        finally:
            self._kept.begin()

    @contextlib.asynccontextmanager
    async def _held(self) -> AsyncIterator[bool]:
        """Hold the nights of the state directory; False if another process does."""
        # Not undone by whoever is cancelled meanwhile: it is undone by the next piece of work of the same thread.
        taken = self.disk.submit(self._take_lock)
        try:
            held = await asyncio.wrap_future(taken)
            yield held
        finally:
            freed = self.disk.submit(lambda: self._lock.release() if said_yes(taken) else None)
            await is_over(freed, STOP_S)

    def _take_lock(self) -> bool:
        self._nights.home.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            return False
        return True

    @contextlib.asynccontextmanager
    async def owned(self, stop: asyncio.Event) -> AsyncIterator[None]:
        """Hold the nights of the state directory for good, after a night of another process that is under way.

        Args:
            stop: ends the wait; then nothing is held.
        """
        async with contextlib.AsyncExitStack() as stack:
            waits = False
            while not stop.is_set() and not await stack.enter_async_context(self._held()):
                if not waits:
                    log.info("waits_for_a_night", reason="another process runs one in this state directory")
                waits = True
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(OWNER_S):
                        await stop.wait()
            yield

    async def _attempt(self, *, last: bool) -> Night:
        started, token = self._now(), new_token()
        home = await self.disk.run(lambda: self._nights.begin(started, token))
        self._output = output = NightOutput(home / OUTPUT, self.disk)
        where: dict[str, JsonValue] = {"data": str(self._settings.data), "output": str(home / OUTPUT)}
        self._events.event(Event("retrain_started", "info", "a night begins", where))
        try:
            came = await run_process(
                [*self.command(), *self._share, "--progress", "json", "--record", str(home)],
                token,
                self._bounds,
                output,
                lambda mark: self._note(home, process=mark),
            )
        except asyncio.CancelledError:
            why = "whoever ran it was told to stop"
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_S):
                    await self._note(home, outcome="stopped", ended_at=self._now(), reason=why)
            raise
        finally:
            output.close()
            self._output = None
        outcome = outcome_of(came, last=last)
        reason = "" if outcome == "done" else reason_of(came, output.last_words, self._settings.timeout_h)
        night = await self._note(home, outcome=outcome, ended_at=self._now(), status=came.status, reason=reason)
        self._outcomes[night.outcome] += 1
        seconds = (self._now() - started).total_seconds()
        for event in events_of(night, await self.disk.run(self._nights.failures_in_a_row), seconds):
            self._events.event(event)
        return night

    @property
    def _share(self) -> list[str]:
        share = self._settings.gpu_share
        return [] if share is None else ["--gpu-share", str(share)]

    @property
    def _bounds(self) -> Bounds:
        settings = self._settings
        return Bounds(settings.niceness, settings.memory, settings.timeout_h * 3600)

    @property
    def on(self) -> bool:
        """Whether nights are started at their time."""
        return self._settings.enabled

    def status(self) -> dict[str, Any]:
        """How far a night is that is under way, what came of the last ones, when the next one is due.

        `outcomes` counts those of this process; everything else holds over restarts. Times are UTC, ISO 8601. What the
        disk says was read `read_s_ago` seconds ago; see `look`.
        """
        job = self._scheduler.get_job("retrain") if self._scheduler.running else None
        return self._kept.value.told(
            running=self._running.locked(),
            progress={} if self._output is None else self._output.progress,
            outcomes=self._outcomes,
            again_at=self._again_at,
            next_at=None if job is None else job.next_run_time,
            age_s=self._kept.age_s,
        )

    async def look(self, wait_s: float) -> None:
        """Read anew what the disk says, for no longer than so many seconds."""
        await self._kept.look(wait_s)

    async def recalibrate(self, bundle: str, spec: EngineSpec) -> bool:
        """Compile the model of a bundle for this machine, calibrate it through that engine, and put it in its place.

        Args:
            bundle: id of the bundle.
            spec: its engine.

        Returns:
            Whether it was done; it is not where its training or the calibration rows are elsewhere, nor while a
            retraining is under way.
        """
        if self._running.locked():
            # It ends in a bundle for this machine, and takes hours.
            return False
        async with self._recalibrating:
            log.info("recalibration_started", bundle=bundle, engine=str(spec))
            output = NightOutput(self._state / NIGHTS / RECALIBRATION, self.disk)
            try:
                command = self.compile_command(bundle, spec)
                came = await run_process(command, new_token(), self._bounds, output)
            finally:
                output.close()
            if came.status:
                log.warning("recalibration_failed", bundle=bundle, status=came.status, reason=output.last_words)
            return came.status == 0

    async def close(self) -> None:
        """Stop the schedule and end a run that is under way; it resumes where it was next time."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        await asyncio.gather(*self._tasks.cancel(), return_exceptions=True)

    def command(self) -> list[str]:
        """The child's command line."""
        return night_command(self._settings, self._night, self._store, self._hotkey)

    def compile_command(self, bundle: str, spec: EngineSpec) -> list[str]:
        """The command line of a child that recalibrates."""
        return compile_command(self._settings, bundle, spec, self._store)

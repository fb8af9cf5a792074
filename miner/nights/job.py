"""The nightly job: retraining in a process of its own, which can crash or hang without a request noticing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger

from engines.machine.background_tasks import BackgroundTasks
from engines.machine.child import end_with_parent
from engines.spec import EngineSpec
from engines.store.store import Store
from miner.nights.crontab import crontab_trigger
from miner.nights.settings import RetrainSettings
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError, SettingsError
from stage1.settings import dotted

log = structlog.get_logger(__name__)

GRACE_S = 5.0
CHECK_S = 60.0
STAMP = "last_retrain.json"
# A shell's status of a command that it cannot run.
NOT_STARTED = 126
# Settings of a night, whose classes a live miner does not import.
CARD, SUBMITTED_BY = "model_card", "model_card.submitted_by"


class RetrainStamp(Artifact):
    """`last_retrain.json`: when the last retraining that succeeded was started, UTC."""

    SCHEMA_VERSION: ClassVar[int] = 1

    started_at: datetime


class NightlyJob:
    """Starts `cascade retrain` at its time, once at a time, at low priority.

    The child leads a process group of its own, so that ending it ends everything it started.

    Args:
        settings: when and on what.
        night: values of the run's config that are other than the preset's, as a tree.
        store: where the pipeline publishes.
        state: directory for the time of the last success.
        now: wall-clock time, UTC.
        hotkey: ss58 address that the model cards of a night name, unless `night` names another one.
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
    ) -> None:
        self._settings = settings
        self._hotkey = hotkey
        self._night = dotted(night or {})
        self._store = store
        self._stamp = state / STAMP
        self._now = now
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._running = asyncio.Lock()
        self._started_at: datetime | None = None
        self._ended_at: datetime | None = None
        self._outcomes: Counter[str] = Counter()
        self._outcome = ""
        self._recalibrating = asyncio.Lock()
        self._tasks = BackgroundTasks()

    def start(self) -> None:
        """Schedule the job; if the last due run was missed while the miner was down, run now."""
        trigger = self._schedule()
        self._scheduler.start()
        if missed(trigger, self._last_success(), self._now()):
            log.info("retrain_missed", last_success=str(self._last_success()))
            self.trigger()

    async def change(self, settings: RetrainSettings, night: Mapping[str, Any]) -> None:
        """Run by other settings from the next run on; one that is under way ends as it began.

        Args:
            settings: when and on what.
            night: as in the constructor.

        Raises:
            SettingsError: a night could not run with them; the old ones stay.
        """
        wanted = NightlyJob(settings, night=night, store=self._store, state=self._stamp.parent, now=self._now)
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
        # In the background, where `close` waits for it.
        self._scheduler.add_job(
            self.trigger, trigger, id="retrain", max_instances=1, coalesce=True, misfire_grace_time=None
        )
        return trigger

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
        """Retrain once and wait for the end.

        Returns:
            The exit status of the child; None if a run was already under way.
        """
        if self._running.locked():
            log.warning("retrain_already_running")
            return None
        # Both would want the workspace; a recalibration takes minutes.
        async with self._running, self._recalibrating:
            self._started_at = started = self._now()
            log.info("retrain_started", data=str(self._settings.data))
            status = await self._child(self.command())
            self._ended_at = self._now()
            seconds = round((self._ended_at - started).total_seconds(), 1)
            self._outcome = "done" if status == 0 else "failed"
            self._outcomes[self._outcome] += 1
            if status == 0:
                self._stamp.parent.mkdir(parents=True, exist_ok=True)
                RetrainStamp(started_at=started).write(self._stamp)
                verdict = Store(self._store).last_verdict()
                said = {} if verdict is None else verdict.model_dump(include={"bundle", "verdict", "reasons", "notes"})
                log.info("retrain_done", seconds=seconds, **said)
            else:
                log.error("retrain_failed", status=status, seconds=seconds)
            return status

    def status(self) -> dict[str, Any]:
        """The runs of this process: the last one's start, end and outcome, and how many came to which outcome.

        `last_success` is the start of the last run that succeeded, before a restart too. Times are UTC, ISO 8601.
        """
        times = {
            "started_at": self._started_at,
            "ended_at": self._ended_at,
            "last_success": self._last_success(),
        }
        return {
            "running": self._running.locked(),
            **{name: None if time is None else time.isoformat() for name, time in times.items()},
            "outcome": self._outcome,
            "outcomes": dict(self._outcomes),
        }

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
            return await self._child(self.compile_command(bundle, spec)) == 0

    async def close(self) -> None:
        """Stop the schedule and end a run that is under way; it resumes where it was next time."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        await asyncio.gather(*self._tasks.cancel(), return_exceptions=True)

    def command(self) -> list[str]:
        """The child's command line."""
        settings = self._settings
        command = [sys.executable, "-m", "miner.cli", "retrain", "--data", str(settings.data)]
        command += ["--workspace", str(settings.workspace), "--store", str(self._store)]
        command += ["--preset", settings.preset] if settings.config is None else ["--config", str(settings.config)]
        card = {} if self._hotkey is None or CARD in self._night else {SUBMITTED_BY: self._hotkey}
        for name, value in (card | self._night).items():
            command += ["--set", f"{name}={json.dumps(value, default=str)}"]
        return command

    def compile_command(self, bundle: str, spec: EngineSpec) -> list[str]:
        """The command line of a child that recalibrates."""
        settings = self._settings
        command = [sys.executable, "-m", "miner.cli", "engines", "compile", bundle, "--activate"]
        command += ["--backend", spec.backend, "--precision", spec.precision, "--device", spec.device]
        command += ["--data", str(settings.data), "--workspace", str(settings.workspace)]
        return [*command, "--store", str(self._store)]

    async def _child(self, command: list[str]) -> int:
        niceness = self._settings.niceness
        try:
            process = await asyncio.create_subprocess_exec(
                "nice",
                "-n",
                str(niceness),
                *command,
                stdin=DEVNULL,
                start_new_session=True,
                # A miner that is killed leaves no job behind, which would hold the workspace of the next one.
                preexec_fn=end_with_parent,
            )
        except OSError as error:
            log.error("child_not_started", reason=str(error), consequence="it is tried again at its next time")
            return NOT_STARTED
        try:
            async with asyncio.timeout(self._settings.timeout_h * 3600):
                return await process.wait()
        except TimeoutError:
            log.error("retrain_timed_out", hours=self._settings.timeout_h)
            await _end_group(process)
            return process.returncode or -signal.SIGKILL
        except asyncio.CancelledError:
            await asyncio.shield(_end_group(process))
            raise

    def _last_success(self) -> datetime | None:
        try:
            return RetrainStamp.read(self._stamp).started_at
        except ArtifactError:
            return None


def missed(trigger: CronTrigger, last_success: datetime | None, now: datetime) -> bool:
    """True if a run was due after the last success and before now; False if there never was a success."""
    if last_success is None:
        return False
    due = trigger.get_next_fire_time(None, last_success + timedelta(seconds=1))
    return due is not None and due <= now


async def _end_group(process: asyncio.subprocess.Process) -> None:
    """TERM to the whole group, then KILL."""
    for sign, wait_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await process.wait()
            return

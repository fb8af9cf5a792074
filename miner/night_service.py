"""The nights of a miner in a process of their own, beside the miner, which then only follows the store."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

from engines.machine.background_tasks import BackgroundTasks, begun_in_thread
from engines.machine.clock import utc_now
from miner.errors import WalletError
from miner.identities import wallets
from miner.nights.job import NightlyJob
from miner.nights.outcome import AGAIN
from miner.settings import MinerSettings
from stage1.errors import CascadeError, SettingsError

log = structlog.get_logger(__name__)


async def run_nights(
    job: NightlyJob, *, read_again: Callable[[], MinerSettings] | None = None, once: bool = False
) -> int:
    """Run nights until SIGTERM or SIGINT; SIGHUP reads the settings again.

    Args:
        job: the nights.
        read_again: reads the settings anew; without it they stay as they are.
        once: run one night now instead, and end with it.

    Returns:
        Exit status: of the night with `once`, or 75 if there was none; else 0.

    Raises:
        SettingsError: a night could not run with the settings.
    """
    stop, loop, reloads = asyncio.Event(), asyncio.get_running_loop(), BackgroundTasks()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if read_again is not None:
        again = read_again
        loop.add_signal_handler(signal.SIGHUP, lambda: reloads.begin(_reload(job, again)))
    try:
        await job.check()
        return await (_once(job, stop) if once else _until(job, stop))
    finally:
        await asyncio.gather(*reloads.cancel(), return_exceptions=True)
        await job.close()


async def _until(job: NightlyJob, stop: asyncio.Event) -> int:
    async with job.owned(stop):
        if not stop.is_set():
            job.start()
            log.info("ready", due=job.status()["next_at"])
            await stop.wait()
        await job.close()
    return 0


async def _once(job: NightlyJob, stop: asyncio.Event) -> int:
    night, stopped = asyncio.create_task(job.run()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({night, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not night.done():
            night.cancel()
            await asyncio.gather(night, return_exceptions=True)
    status = None if night.cancelled() else night.result()
    return AGAIN if status is None else abs(status)


async def _reload(job: NightlyJob, read_again: Callable[[], MinerSettings]) -> None:
    try:
        wanted = with_nights(await begun_in_thread(read_again, "settings"))
        await job.change(wanted.retrain, wanted.night)
    except (CascadeError, OSError) as error:
        log.error("settings_not_taken", reason=str(error), consequence="the old ones stay")
    else:
        log.info("settings_taken", sections=["retrain", "night"])


def with_nights(settings: MinerSettings) -> MinerSettings:
    """The settings with nights on, whatever `retrain.enabled` says, which is for the miner.

    Raises:
        SettingsError: no data are named.
    """
    if settings.retrain.data is None:
        raise SettingsError("`cascade nightly` needs retrain.data: the directory with labels.csv")
    return settings.with_sections({"retrain": settings.retrain.model_copy(update={"enabled": True})})


def job_of(settings: MinerSettings) -> NightlyJob:
    """The nights of a miner with these settings.

    Raises:
        SettingsError: no data are named.
    """
    settings, hotkey = with_nights(settings), None
    try:
        hotkey = next(iter(wallets(settings)))
    except WalletError as error:
        # A machine that only trains needs no key.
        consequence = "model cards name no hotkey unless night.model_card.submitted_by does"
        log.info("no_hotkey", reason=str(error), consequence=consequence)
    return NightlyJob(
        settings.retrain, night=settings.night, store=settings.store, state=settings.state, now=utc_now, hotkey=hotkey
    )

"""The live miner's process: chain, bundle, axon, nightly job; from start to a clean stop."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial

import structlog

from engines.live.batcher import Batcher
from engines.live.swap.follower import StoreFollower
from engines.machine.background_tasks import BackgroundTasks
from engines.machine.clock import utc_now
from engines.machine.descriptors import raise_descriptor_limit
from engines.machine.memory import few_arenas, give_back
from engines.machine.tally import Tally
from engines.store.store import Store
from miner.admin.live_miner import Axon, LiveMiner
from miner.admin_endpoint import open_admin, open_metrics
from miner.alerts.switch import AlertSwitch
from miner.answering.handoff import HandOff
from miner.answering.journal import Journal
from miner.answering.live_rates import LiveRates
from miner.assembly import (
    address_of,
    alerts_of,
    canary_of,
    cascade_of,
    disk_waits,
    follower_of,
    gpu_watch,
    image_watchers,
    observers_of,
    updates_of,
    watch_of,
)
from miner.axon.app import AxonApp
from miner.axon.server import tell_failure
from miner.chain.adapter import first_snapshot, open_chain
from miner.chain.watch import ChainWatch
from miner.errors import StartError
from miner.events.event import EventSinks
from miner.events.log_sink import LogSink
from miner.harvest.switch import HarvestSwitch
from miner.identities import Identity, ReplyCounts, identities, wallets
from miner.live_risk.fixed_settings import check_change
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.watch_tasks import start_audits
from miner.logs import configure_logging
from miner.nights.job import NightlyJob
from miner.nights.load_file import LoadFile
from miner.reload import SettingsReload
from miner.settings import MinerSettings
from miner.signals import stop_before_ready, stop_or_reload
from miner.start_checks import held_state
from stage1.errors import CascadeError
from stage2_bridge.calibration.live import Calibrations

log = structlog.get_logger(__name__)

# For the requests in flight; longer where `requests.deadline_s` is.
DRAIN_S = 7.0
# Between two times at which freed memory is returned to the system; each takes some milliseconds of another thread.
GIVE_BACK_S = 10.0
# Threads of these pools are not waited for any longer at the end of the process.
POOLS, LEAVE_S = ("stage1", "stage2", "harvest", "live-risk"), 0.5


async def run_miner(
    settings: MinerSettings,
    *,
    read_again: Callable[[], MinerSettings] | None = None,
    retrain_now: bool = False,
    started: float | None = None,
    on_stop: Callable[[float, BaseException | None], object] = lambda *_: None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain and stop; SIGTERM also ends a start that is under way.

    SIGHUP reads the settings again, and looks at the store at once instead of waiting for its change to be noticed.

    Args:
        settings: all settings.
        read_again: reads them anew; without it they stay as they are.
        retrain_now: start the nightly job once, at once.
        started: monotonic time at which the process started, for the cold-start figure.
        on_stop: called when it stops serving, with the most seconds that requests in flight may take, and with the
            error that it ends by; None for a stop that somebody wanted.

    Raises:
        MinerError: the wallet, the chain, the bundle or the port does not allow a start; says what to do.
        SettingsError: the nightly job could not run with its settings.
    """
    stop = asyncio.Event()
    # An engine that is being loaded is waited for.
    stop_before_ready(stop, lambda: on_stop(DRAIN_S, None))
    try:
        await _run(settings, stop, read_again=read_again, retrain_now=retrain_now, started=started, on_stop=on_stop)
    except asyncio.CancelledError:
        if not stop.is_set():
            raise
        log.info("stopped_before_ready")


async def _run(
    settings: MinerSettings,
    stop: asyncio.Event,
    *,
    read_again: Callable[[], MinerSettings] | None,
    retrain_now: bool,
    started: float | None,
    on_stop: Callable[[float, BaseException | None], object],
) -> None:
    few_arenas()
    raise_descriptor_limit()
    tally, degraded, journal_failed = (Tally(name) for name in ("refused", "degraded", "journal_failed"))
    asyncio.get_running_loop().set_exception_handler(partial(tell_failure, tally))
    async with AsyncExitStack() as stack:
        stack.enter_context(held_state(settings.state))
        ours = wallets(settings)
        ip = address_of(settings)
        alerts = alerts_of(settings, stack)
        events = EventSinks([LogSink(), alerts])
        nightly = NightlyJob(
            settings.retrain,
            night=settings.night,
            store=settings.store,
            state=settings.state,
            now=utc_now,
            hotkey=next(iter(ours)),
            events=events,
        )
        checked = asyncio.create_task(nightly.check())
        stack.push_async_callback(_end, checked)
        chain = open_chain(settings.chain, ours, logs=settings.log)
        stack.push_async_callback(chain.close)
        snapshot, read_at = await first_snapshot(chain, list(ours)), time.monotonic()
        follower = follower_of(settings, nightly, stack)
        batcher = Batcher(settings.engine.shared_calls, clock=time.monotonic)
        stack.push_async_callback(asyncio.to_thread, batcher.close)
        journal = Journal(settings.state, journal_failed)
        stack.push_async_callback(asyncio.to_thread, journal.close)
        metrics = open_metrics(settings.admin, lambda: sum(tally.counts.values()))
        canary = canary_of(settings, follower, batcher, events, stack)
        load = LoadFile(settings.state, settings.retrain.pause_above_ms)
        observers = observers_of([journal, LiveRates(canary), load], metrics, alerts)
        calibrations = Calibrations(settings.store, lambda: follower.live_id or "")
        risk, harvest = image_watchers(settings, events, stack)
        cascade, hand_off = await cascade_of(
            settings, follower, batcher, observers, journal, calibrations, risk, harvest, degraded, stack
        )
        start_audits(risk, Store(settings.store), follower, hand_off.bridge, stack)
        counts = ReplyCounts(None if metrics is None else metrics.on_reply)
        served = identities(settings, list(ours), snapshot, answer=cascade.answer, on_reply=counts.add, tally=tally)
        await checked
        for identity in served:
            await identity.server.start()
            stack.push_async_callback(_drained, identity)
        watch = watch_of(settings, chain, served, snapshot, read_at, ip)
        disks = partial(disk_waits, [follower.disk, journal.disk, nightly.disk, hand_off.disk], alerts, risk, harvest)
        live = LiveMiner(
            state=str(settings.state.resolve()),
            axons={one.address: Axon(one.server, partial(_in_flight, one.app)) for one in served},
            follower=follower,
            batcher=batcher,
            bridge=hand_off.bridge,
            calibrations=calibrations,
            replies=counts.replies,
            auth_modes=counts.auth_modes,
            tallies={"refused": tally, "degraded": degraded, "journal_failed": journal_failed},
            chain=watch.status,
            nightly=nightly.status,
            live_risk=dict if risk is None else risk.status,
            harvest=harvest.status,
            alerts=alerts.status,
            update=updates_of(settings, events, stack),
            stopping=stop.is_set,
            now=utc_now,
            canary=canary.status,
            gpus=await gpu_watch(stack),
            disks=disks,
            look_at_nights=nightly.look,
        )
        if metrics is not None:
            await open_admin(settings.admin, live, metrics, stack)
        # All at once, and before anything that they need: a stop takes no longer than the slowest.
        stack.push_async_callback(_stop_serving, served, nightly)
        stack.push(_stop_begins(on_stop, served))
        nightly.start()
        alerts.start(live, lambda: nightly.on, Store(settings.store), [settings.state])
        if retrain_now:
            nightly.trigger()
        reload = _reload(settings, read_again, served, watch, nightly, hand_off, risk, harvest, alerts)
        stack.push_async_callback(_end_all, stop_or_reload(stop, follower, reload))
        _tell_ready(served, follower, started)
        await _serve(watch, served, follower, load, stop)
        log.info("stopping", swaps=follower.swaps)


def _tell_ready(served: Sequence[Identity], follower: StoreFollower, started: float | None) -> None:
    cold = None if started is None else round(time.monotonic() - started, 3)
    for identity in served:
        log.info(
            "ready",
            hotkey=identity.address,
            port=identity.server.port,
            generation=follower.slot.generation,
            cold_start_s=cold,
        )


async def _stop_serving(identities: Sequence[Identity], nightly: NightlyJob) -> None:
    """Accept nothing more, answer what was accepted, and end the nightly job meanwhile."""
    ends = [nightly.close(), *(_drained(identity) for identity in identities)]
    for error in await asyncio.gather(*ends, return_exceptions=True):
        if isinstance(error, Exception):
            log.error("not_stopped", exc_info=error)


async def _drained(identity: Identity) -> None:
    await identity.server.stop(_drain_s(identity))


def _stop_begins(
    on_stop: Callable[[float, BaseException | None], object], identities: Sequence[Identity]
) -> Callable[[object, BaseException | None, object], None]:
    """For an exit stack, in front of everything that may hang."""

    def begins(_: object, error: BaseException | None, __: object) -> None:
        on_stop(max(map(_drain_s, identities)), error)

    return begins


def _drain_s(identity: Identity) -> float:
    return max(DRAIN_S, identity.app.deadline_s)


def leave_native_work(status: int = 0) -> None:
    """End this process at once if a thread still computes, or waits for a disk, and nobody waits for it any more.

    Python would wait for it, and it can be neither interrupted nor bounded.

    Args:
        status: exit status of the process.
    """
    deadline = time.monotonic() + LEAVE_S
    pools = [thread for thread in threading.enumerate() if thread.name.startswith(POOLS)]
    for thread in pools:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in pools):
        log.warning("left_native_work", threads=[thread.name for thread in pools if thread.is_alive()])
        logging.shutdown()
        os._exit(status)


async def _end(task: asyncio.Task[None]) -> None:
    """Whatever it raised is told already, or of no interest to a miner that ends."""
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _end_all(tasks: BackgroundTasks) -> None:
    await asyncio.gather(*tasks.cancel(), return_exceptions=True)


def _in_flight(app: AxonApp) -> int:
    return app.in_flight


async def _give_back_memory() -> None:
    """Now and then, for ever."""
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        await asyncio.to_thread(give_back)


async def _serve(
    watch: ChainWatch, identities: Sequence[Identity], follower: StoreFollower, load: LoadFile, stop: asyncio.Event
) -> None:
    """Until `stop` is set, or a server ends by itself."""
    background = [
        asyncio.create_task(_give_back_memory(), name="give back memory"),
        asyncio.create_task(follower.run(stop), name="follow the store"),
        asyncio.create_task(load.run(), name="write the load"),
        asyncio.create_task(watch.run(), name="watch the chain"),
        *(asyncio.create_task(identity.server.wait(), name="axon") for identity in identities),
    ]
    waiting = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([*background, waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.set()
        for task in (*background, waiting):
            task.cancel()
        await asyncio.gather(*background, waiting, return_exceptions=True)
    for task in done - {waiting}:
        if not task.cancelled() and (error := task.exception()) is not None:
            if not isinstance(error, CascadeError):
                log.error("task_ended", task=task.get_name(), exc_info=error)
            raise StartError(f"the task {task.get_name()!r} ended: {error}") from error


def _reload(
    settings: MinerSettings,
    read_again: Callable[[], MinerSettings] | None,
    served: Sequence[Identity],
    watch: ChainWatch,
    nightly: NightlyJob,
    hand_off: HandOff,
    risk: LiveRisk | None,
    harvest: HarvestSwitch,
    alerts: AlertSwitch,
) -> SettingsReload:
    async def logs(wanted: MinerSettings) -> None:
        configure_logging(wanted.log.level, wanted.log.json_lines)

    async def rules(wanted: MinerSettings) -> None:
        for identity in served:
            identity.change(wanted)
        watch.reconsider()

    async def night(wanted: MinerSettings) -> None:
        await nightly.change(wanted.retrain, wanted.night)

    async def stage2(wanted: MinerSettings) -> None:
        await hand_off.change(wanted.stage2)
        # Of the time that a request has, a part is kept for an answer without it.
        await rules(wanted)

    async def watched(wanted: MinerSettings) -> None:
        if risk is not None:
            await risk.in_thread(partial(risk.change, wanted.live_risk))
        else:
            check_change(settings.live_risk, wanted.live_risk)

    async def kept(wanted: MinerSettings) -> None:
        await harvest.change(wanted.harvest)

    async def told(wanted: MinerSettings) -> None:
        await alerts.change(wanted.alerts)

    # Keys, prompts, certificates, engines and addresses are files.
    names_files = frozenset({"stage2", "alerts"})

    takers = {
        ("log",): logs,
        ("access", "requests"): rules,
        ("retrain", "night"): night,
        ("stage2",): stage2,
        ("live_risk",): watched,
        ("harvest",): kept,
        ("alerts",): told,
    }
    return SettingsReload(settings, read_again or (lambda: settings), takers, names_files)

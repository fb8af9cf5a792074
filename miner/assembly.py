"""The parts of a live miner, each put together from the settings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import structlog

from engines.errors import EngineError
from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.load.engine_choice import serving_engine
from engines.live.load.local_compile import LocalCompiler
from engines.live.swap.canary import Canary
from engines.live.swap.follower import StoreFollower
from engines.machine.clock import utc_now
from engines.machine.disk.disk_thread import DiskThread
from engines.machine.nvml.health import GpuHealth
from engines.machine.nvml.watch import GpuWatch, can_watch
from engines.machine.tally import Tally
from engines.store.store import Store
from miner.alerts.switch import AlertSwitch
from miner.answering.cascade import Cascade
from miner.answering.handoff import HandOff
from miner.answering.journal import Journal
from miner.answering.live_rates import open_canary
from miner.answering.record import Observer
from miner.chain.port import AxonAddress, ChainPort, ChainSnapshot
from miner.chain.watch import ChainWatch
from miner.errors import StartError
from miner.events.event import EventSink
from miner.harvest.switch import HarvestSwitch, open_harvest
from miner.identities import Identity
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.watch_tasks import open_live_risk
from miner.nights.job import NightlyJob
from miner.settings import MinerSettings
from miner.start_checks import out_of_reach, published_ip
from stage1.errors import Stage1Error
from stage2_bridge.calibration.live import Calibrations

log = structlog.get_logger(__name__)


def address_of(settings: MinerSettings) -> str | None:
    """Where validators are told to reach this miner; None if nobody is told."""
    ip = published_ip(settings.chain)
    if ip is not None and (why := out_of_reach(ip)) is not None:
        log.warning("address_not_public", consequence=why)
    return ip


def alerts_of(settings: MinerSettings, stack: AsyncExitStack) -> AlertSwitch:
    """Who is told from afar, perhaps nobody."""
    alerts = AlertSwitch(settings.alerts, settings.state)
    stack.push_async_callback(alerts.close)
    return alerts


def disk_waits(
    threads: Sequence[DiskThread], alerts: AlertSwitch, risk: LiveRisk | None, harvest: HarvestSwitch
) -> dict[str, float]:
    """How long each disk has been waited for, in seconds, by what it is the disk of."""
    asked = *threads, alerts.disk, None if risk is None else risk.queue.disk, harvest.disk
    return {one.name: one.hangs_s for one in asked if one is not None}


def updates_of(settings: MinerSettings, events: EventSink, stack: AsyncExitStack) -> Callable[[], dict[str, Any]]:
    """What is known of newer releases; where nobody asks for them, nothing that asks is loaded."""
    if not settings.update.check:
        return dict
    from miner.update.watch import UpdateWatch  # noqa: PLC0415

    watch = UpdateWatch(settings.update, settings.state, events, now=utc_now)
    task = asyncio.create_task(watch.run(), name="look for releases")
    stack.callback(task.cancel)
    return watch.status


def observers_of(always: list[Observer], metrics: Observer | None, alerts: AlertSwitch) -> tuple[Observer, ...]:
    """Everybody who is told of each answer, in this order."""
    return (*always, alerts) if metrics is None else (*always, metrics, alerts)


def follower_of(settings: MinerSettings, nightly: NightlyJob, stack: AsyncExitStack) -> StoreFollower:
    """What follows the store; the stack closes it, and the connections to servers that compute for it."""
    engine = settings.engine
    if engine.remote:
        follower = _follower_of_servers(settings, stack)
    else:
        follower = StoreFollower(
            Store(settings.store),
            settings=engine.swap,
            options=EngineOptions(
                serve_with=serving_engine(engine.serve_with, settings.store),
                threads=engine.threads,
                most=engine.batch.max_batch,
                compiler=LocalCompiler(settings.state / "engines"),
            ),
            recalibrate=None if settings.retrain.data is None else nightly.recalibrate,
        )
    stack.push_async_callback(follower.close)
    return follower


def _follower_of_servers(settings: MinerSettings, stack: AsyncExitStack) -> StoreFollower:
    # Who computes in this process needs no HTTP client.
    from engines.live.remote.opener import RemoteEngines  # noqa: PLC0415

    engine = settings.engine
    opener = RemoteEngines(engine.remote, engine.servers, most=engine.batch.max_batch)
    stack.push_async_callback(asyncio.to_thread, opener.close)
    return StoreFollower(
        Store(settings.store),
        # A trial would load into a process of its own what no process of this machine is to compute.
        settings=engine.swap.model_copy(update={"trial": False}),
        options=EngineOptions(
            threads=engine.threads,
            most=engine.batch.max_batch,
            memory=lambda: None,
            opens=opener.open,
            elsewhere=True,
        ),
    )


def canary_of(
    settings: MinerSettings, follower: StoreFollower, batcher: Batcher, events: EventSink, stack: AsyncExitStack
) -> Canary:
    """What watches the first requests of a new bundle."""
    canary = open_canary(settings.engine.swap.canary, Store(settings.store), follower, batcher, events)
    stack.push_async_callback(canary.close)
    return canary


def image_watchers(
    settings: MinerSettings, events: EventSink, stack: AsyncExitStack
) -> tuple[LiveRisk | None, HarvestSwitch]:
    """What looks at images after their answers: the watch on the certificate, and what keeps some for labelling."""
    risk = open_live_risk(settings.live_risk, settings.state, events, stack)
    return risk, open_harvest(settings.harvest, settings.state, risk, stack)


async def cascade_of(
    settings: MinerSettings,
    follower: StoreFollower,
    batcher: Batcher,
    observers: tuple[Observer, ...],
    journal: Journal,
    calibrations: Calibrations,
    risk: LiveRisk | None,
    harvest: HarvestSwitch,
    degraded: Tally,
    stack: AsyncExitStack,
) -> tuple[Cascade, HandOff]:
    """The cascade and its way to Stage-2, which the stack closes.

    Raises:
        StartError: no bundle can be loaded, or a Stage-2 server not be opened.
    """
    try:
        await follower.start()
        hand_off = HandOff(settings.stage2, settings.state, calibrations)
    except (EngineError, Stage1Error) as error:
        raise StartError(str(error)) from error
    stack.push_async_callback(hand_off.close)
    if risk is not None:
        # Before the first request: an alarm that was raised before a restart holds.
        with follower.slot.lease() as lease:
            risk.live(lease.bundle)
    cascade = Cascade(
        follower.slot,
        batcher,
        hand_off.bridge,
        observers=observers if risk is None else (*observers, risk),
        image_observers=(harvest,) if risk is None else (risk, harvest),
        written=journal.written,
        policy=None if risk is None else risk.policy,
        engine=settings.engine,
        clock=time.monotonic,
        now=utc_now,
        tally=degraded,
    )
    stack.push_async_callback(cascade.close)
    hand_off.begin()
    # Before the servers are closed, or it would blame them for that.
    stack.push_async_callback(hand_off.end)
    return cascade, hand_off


async def gpu_watch(stack: AsyncExitStack) -> Callable[[], GpuHealth | None]:
    """What tells how the GPUs are; tells nothing where nothing is there that could.

    Whoever asks may come later: alerts can be turned on while the miner runs.

    Args:
        stack: ends the watch.
    """
    if not can_watch():
        return lambda: None
    watch = await stack.enter_async_context(GpuWatch())
    return watch.health


def watch_of(
    settings: MinerSettings,
    chain: ChainPort,
    identities: Sequence[Identity],
    first: ChainSnapshot,
    first_at: float,
    ip: str | None,
) -> ChainWatch:
    """What keeps up with the chain, and tells the axons who may ask.

    Args:
        settings: of the miner.
        chain: the chain.
        identities: our hotkeys.
        first: what was read of it at the start.
        first_at: monotonic time of that, in seconds; a bundle that is compiled first takes minutes.
        ip: where we are found; None if that is not published.
    """

    def update(snapshot: ChainSnapshot) -> int:
        for identity in identities:
            identity.access.update(snapshot.neurons)
        log.info("access", admitted={identity.address: identity.access.admitted for identity in identities})
        return min(identity.access.qualified for identity in identities)

    addresses = {
        identity.address: None if ip is None else AxonAddress(ip, identity.external_port or identity.server.port)
        for identity in identities
    }
    return ChainWatch(chain, settings.chain, addresses, first=first, update=update, first_at=first_at)

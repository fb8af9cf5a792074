"""All checks of `cascade doctor`, in the order in which they are told; each stands alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from datetime import datetime

from engines.live.load.engine_choice import serving_engine
from engines.machine.clock import utc_now
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.machine.nvml.health import GpuHealth
from engines.machine.nvml.watch import module_version, read_once
from miner.cli.doctor.bundle import certificate, checked_bundle, model_age, serving
from miner.cli.doctor.chain import chain_findings, endpoint, read_chain, wire
from miner.cli.doctor.diagnosis import Finding
from miner.cli.doctor.keys import draw_keys, keys, receivers
from miner.cli.doctor.machine import gpu, installed, memory, packages, release
from miner.cli.doctor.nights import data, disk, night, nights
from miner.cli.doctor.stage2 import stage2
from miner.cli.doctor.state_and_ports import in_use, where
from miner.cli.doctor.traffic import live_risk, traffic
from miner.cli.engines.server_check import stage1_servers
from miner.settings import MinerSettings


async def examine(settings: MinerSettings) -> list[Finding]:
    """Every check of a miner on this machine."""
    now = utc_now()
    # The chain is asked over the network, and needs nothing of this machine.
    chain = asyncio.create_task(_chain(settings))
    try:
        found = [
            *await _bundle(settings, now),
            *await _stage1_servers(settings),
            *await stage2(settings),
            *keys(settings),
            *await asyncio.to_thread(draw_keys, settings),
            *await receivers(settings),
            *await asyncio.to_thread(where, settings),
            endpoint(settings),
            wire(settings),
            *await chain,
            traffic(settings, now),
            *live_risk(settings, now),
            *release(settings),
        ]
    finally:
        chain.cancel()
    found += [*await night(settings), *nights(settings), *await asyncio.to_thread(disk, settings)]
    return [*found, *await asyncio.to_thread(data, settings, now)]


async def _chain(settings: MinerSettings) -> list[Finding]:
    read = await read_chain(settings)
    return [read] if isinstance(read, Finding) else await chain_findings(settings, read)


async def _stage1_servers(settings: MinerSettings) -> list[Finding]:
    told = await asyncio.to_thread(stage1_servers, settings)
    return [Finding(check="stage1 server", verdict=verdict, detail=detail) for verdict, detail in told]


async def _bundle(settings: MinerSettings, now: datetime) -> list[Finding]:
    """The bundle, and the machine that it runs on."""
    versions = installed()
    checked = await asyncio.to_thread(checked_bundle, settings)
    if isinstance(checked, Finding):
        return [checked, *packages(versions), *await _gpu(versions, needed=False)]
    running = await asyncio.to_thread(in_use, settings)
    chosen = await asyncio.to_thread(serving_engine, settings.engine.serve_with, settings.store)
    spec = chosen or checked.spec
    room = memory(settings, checked, beside_a_miner=running)
    return [
        *certificate(checked),
        *await serving(settings, checked, beside_a_miner=running),
        *model_age(settings, now),
        *packages(versions),
        *room,
        *await _gpu(versions, needed=spec.device == "cuda"),
    ]


async def _gpu(versions: dict[str, str], *, needed: bool) -> Iterable[Finding]:
    driver = module_version()
    if not driver and not needed:
        # Without the kernel's module nobody can say anything, and asking would start processes.
        return gpu(GpuHealth(), NoGpu(reason="no driver is loaded"), versions, needed=False)
    health, found = await _both(asyncio.to_thread(read_once), asyncio.to_thread(find_gpu))
    if not health.driver:
        health = health.model_copy(update={"driver": driver})
    return gpu(health, found, versions, needed=needed)


async def _both(first: Awaitable[GpuHealth], second: Awaitable[Gpu | NoGpu]) -> tuple[GpuHealth, Gpu | NoGpu]:
    one, other = await asyncio.gather(first, second)
    return one, other

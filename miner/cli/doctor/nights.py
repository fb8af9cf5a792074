"""The nights: whether their settings fit, whether there is room for one, and what came of the last ones."""

from __future__ import annotations

from datetime import datetime

from engines.machine.clock import utc_now
from miner.cli.doctor.diagnosis import Finding, error, ok, warning
from miner.nights.job import NightlyJob
from miner.nights.record import OUTPUT, Nights
from miner.settings import MinerSettings
from offline.config import load_config
from offline.data.inventory import inventory_of
from offline.data.sources.source import read_dataset
from offline.runs.disk_space import free_bytes, gigabytes
from offline.runs.run_end import room_needed
from offline.settings_and_data import check_settings_on_data
from stage1.errors import CascadeError
from stage1.settings import dotted

NIGHTS_TOLD = 3


async def night(settings: MinerSettings) -> list[Finding]:
    """Whether the settings of the nightly job fit, as a start asks; nothing where there are none."""
    retrain = settings.retrain
    if retrain.data is None and not settings.night:
        return []
    job = NightlyJob(retrain, night=settings.night, store=settings.store, state=settings.state, now=utc_now)
    try:
        await job.check()
    except CascadeError as failed:
        return [error("night", str(failed))]
    return [ok("night", "its settings fit")]


def nights(settings: MinerSettings) -> list[Finding]:
    """What came of the last nights, each with its verdict or its reason; nothing where there were none."""
    kept = Nights(settings.state)
    last = kept.latest(NIGHTS_TOLD)[::-1]
    if not last:
        return []
    failures = kept.failures_in_a_row()
    told = "; ".join(f"{night.record.started_at:%Y-%m-%d %H:%M} {night.in_words}" for night in last)
    if failures:
        counted = "the last one failed" if failures == 1 else f"{failures} in a row have failed"
        return [warning("nights", f"{counted}: {told}", f"see {last[0].home / OUTPUT}")]
    return [ok("nights", told)]


def disk(settings: MinerSettings) -> list[Finding]:
    """Whether a night would find room, by its own estimate; and whether swaps do where there are no nights."""
    retrain = settings.retrain
    if retrain.data is None:
        free = free_bytes(settings.store)
        told = f"{gigabytes(free)} are free on the disk of {settings.store}"
        if free < settings.alerts.free_gib * 2**30:
            return [warning("disk", told, "make room: a new bundle and the journal need it")]
        return [ok("disk", told)]
    try:
        need, reason = room_needed(
            retrain.workspace, load_config(retrain.preset, retrain.config, dotted(settings.night))
        )
    except CascadeError:
        # Told by the check of the night's settings.
        return []
    found = []
    for place in (retrain.workspace, settings.store):
        free = free_bytes(place)
        told = f"{place}: {gigabytes(free)} are free"
        if need > free:
            detail = f"{told}, and a night needs about {gigabytes(need)} ({reason})"
            todo = f"free {gigabytes(need - free)}; `cascade runs list` shows what each run takes"
            found.append(error("disk", detail, todo))
        else:
            wanted = (
                f"; a night needs about {gigabytes(need)} ({reason})" if need else "; nothing tells what a night needs"
            )
            found.append(ok("disk", told + wanted))
    return found


def data(settings: MinerSettings, now: datetime) -> list[Finding]:
    """What the nightly job would read, and whether its settings fit; nothing where no data are named."""
    retrain = settings.retrain
    if retrain.data is None:
        return []
    try:
        config = load_config(retrain.preset, retrain.config, dotted(settings.night))
        rows = read_dataset(retrain.data)
        check_settings_on_data(config, rows, now)
    except CascadeError as failed:
        return [error("data", str(failed))]
    places = config.splits.gps_cell_m is not None
    return [ok("data", str(inventory_of(rows, config.splits.sequence_columns, places=places)))]

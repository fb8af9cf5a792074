"""Metrics that are read from the running miner when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from engines.live.swap.status import own_batches, servers_of
from engines.machine.tally import Tally
from miner.admin.gpu_metrics import gpus
from miner.admin.live_miner import LiveMiner
from miner.admin.readiness import conditions
from miner.admin.risk_metrics import live_risk
from miner.admin.server_metrics import stage1_servers
from stage2_bridge.client import BudgetStatus

SIZES = (1, 2, 4, 8, 16, 32, 64)
Read = Callable[[], Iterable[Metric]]
# Values of labels.
Key = TypeVar("Key", bound=tuple[str, ...])


class Part(Collector):
    """One part of what a scrape tells; where it fails, the others are told all the same.

    Args:
        name: what a failure is counted under.
        read: reads it.
        failed: counts failures.
    """

    def __init__(self, name: str, read: Read, failed: Tally) -> None:
        self._name = name
        self._read = read
        self._failed = failed

    def collect(self) -> list[Metric]:
        """What there is; nothing if it could not be read."""
        try:
            return list(self._read())
        except Exception as error:  # noqa: BLE001  it is told, and counted in the same scrape
            self._failed.add(self._name, repr(error), error=error)
            return []


def register_state(registry: CollectorRegistry, miner: LiveMiner) -> None:
    """Add everything that is read from a miner, and from its process, to a registry.

    Args:
        registry: where it is asked for.
        miner: what is read.
    """
    failed = Tally("scrape_failed")
    parts: dict[str, Read] = {
        "requests": lambda: requests(miner),
        "stage1": lambda: stage1(miner),
        "stage1_servers": lambda: servers(miner),
        "stage2": lambda: stage2(miner),
        "bundle": lambda: bundle(miner),
        "certificate": lambda: certificate(miner),
        "chain": lambda: chain(miner),
        "nightly": lambda: nightly(miner),
        "live_risk": lambda: live_risk(miner.live_risk()),
        "gpus": lambda: gpus(miner.gpus()),
        "disks": lambda: disks(miner),
        "readiness": lambda: readiness(miner),
        "threads": threads,
        "process": ProcessCollector(registry=None).collect,
        "platform": PlatformCollector(registry=None).collect,
        "memory": GCCollector(registry=CollectorRegistry()).collect,
        # Last, so that it counts this scrape too.
        "failures": lambda: [
            _counter(
                "cascade_scrape_failures",
                "Parts of scrapes that failed.",
                {(k,): n for k, n in failed.counts.items()},
                "part",
            )
        ],
    }
    for name, read in parts.items():
        registry.register(Part(name, read, failed))


def _counter(name: str, says: str, values: Mapping[Key, float], *labels: str) -> Metric:
    family = CounterMetricFamily(name, says, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _gauge(name: str, says: str, values: Mapping[Key, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(name, says, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family


def _one(value: float | None) -> dict[tuple[str, ...], float]:
    """The value of a metric without labels; none if there is none."""
    return {} if value is None else {(): value}


def _seconds(time: str | None) -> dict[tuple[str, ...], float]:
    """Seconds since 1970 of an ISO 8601 time."""
    return _one(None if time is None else datetime.fromisoformat(time).timestamp())


def _by(counts: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(name,): number for name, number in counts.items()}


def requests(miner: LiveMiner) -> Iterator[Metric]:
    """Requests, connections, refusals, and what is lost."""
    # So that the first answer is an increase.
    replies = {(hotkey, "200"): 0 for hotkey in miner.axons}
    replies |= {(hotkey, str(status)): number for (hotkey, status), number in miner.replies.items()}
    yield _counter("cascade_requests", "Replies by our hotkey and HTTP status.", replies, "hotkey", "status")
    in_flight = {(hotkey,): axon.in_flight() for hotkey, axon in miner.axons.items()}
    yield _gauge(
        "cascade_requests_in_flight", "Requests that are read or answered at this moment.", in_flight, "hotkey"
    )
    connections = {(hotkey,): axon.server.connections for hotkey, axon in miner.axons.items()}
    yield _gauge("cascade_connections", "Connections that are open.", connections, "hotkey")
    told = {
        "refused": ("cascade_refusals", "Requests and connections that were refused, by reason."),
        "degraded": ("cascade_degraded_answers", "Answers without what should have given them, by what that is."),
        "journal_failed": ("cascade_journal_failures", "Records that could not be written, by reason."),
    }
    for name, (metric, says) in told.items():
        yield _counter(metric, says, _by(miner.tallies[name].counts), "reason")


def stage1(miner: LiveMiner) -> Iterator[Metric]:
    """Batches of Stage-1."""
    stats = miner.batcher.stats
    below = [sum(n for size, n in stats.batches_by_size.items() if low < size <= high) for low, high in _ranges()]
    buckets = [(_bound(high), float(n)) for (_, high), n in zip(_ranges(), accumulate(below), strict=True)]
    sizes = HistogramMetricFamily("cascade_batch_size", "Images of one engine call.")
    sizes.add_metric((), buckets, sum_value=sum(size * n for size, n in stats.batches_by_size.items()))
    yield sizes
    yield _gauge("cascade_queued_images", "Images that wait for Stage-1.", _one(stats.waiting))
    yield _counter("cascade_expired_images", "Images whose time was up while they waited.", _one(stats.expired))
    yield _counter("cascade_failed_images", "Images that the engine failed on.", _one(stats.failed))


def _ranges() -> list[tuple[float, float]]:
    return list(zip((0, *SIZES), (*SIZES, float("inf")), strict=True))


def _bound(size: float) -> str:
    return "+Inf" if size == float("inf") else f"{size}.0"


def servers(miner: LiveMiner) -> Iterator[Metric]:
    """The servers that compute Stage-1."""
    slot = miner.follower.slot
    if not slot.generation:
        return stage1_servers((), None)
    # Not by the follower's status, which reads the store: a disk that hangs would hold up every request.
    with slot.lease() as lease:
        engine = lease.bundle.engine
    return stage1_servers(servers_of(engine), own_batches(engine))


def stage2(miner: LiveMiner) -> Iterator[Metric]:
    """Hand-offs to Stage-2."""
    stats = miner.bridge.stats
    yield _counter(
        "cascade_stage2_handoffs", "Deferred images, by what became of the hand-off.", _by(stats.outcomes), "outcome"
    )
    yield _gauge("cascade_stage2_in_flight", "Hand-offs that are under way.", _one(stats.in_flight))
    states = {(one.name, one.state): 1 for one in stats.servers}
    yield _gauge("cascade_stage2_server_state", "1 for how a Stage-2 server stands.", states, "server", "state")
    under_way = {(one.name,): one.in_flight for one in stats.servers}
    yield _gauge("cascade_stage2_server_in_flight", "Requests to a Stage-2 server under way.", under_way, "server")
    calibrations = {(one.server, one.state): 1 for one in miner.stage2_calibrations()}
    yield _gauge(
        "cascade_stage2_calibration_state",
        "1 for how the calibration of a Stage-2 server stands.",
        calibrations,
        "server",
        "state",
    )
    yield _gauge("cascade_stage2_waiting", "Images that wait for a hand-off to end.", _one(stats.waiting))
    yield _counter("cascade_stage2_failures", "Failures of Stage-2, by kind of error.", _by(stats.failures), "error")
    yield _counter(
        "cascade_stage2_shared",
        "Hand-offs that took the verdict of another call on the same bytes, which was `finished` or `under_way`.",
        _by(stats.cached),
        "call",
    )
    yield _counter(
        "cascade_stage2_hedges",
        "Second servers that were asked (`begun`), and those that answered first (`won`).",
        _by(stats.hedges),
        "did",
    )
    yield from _budget(stats.budget)


def _budget(budget: BudgetStatus | None) -> Iterator[Metric]:
    """The budget of Stage-2; nothing without one."""
    unit = () if budget is None else (budget.unit,)
    known = {} if budget is None else {"limit": budget.limit, "available": budget.available}
    amounts = {(name, *unit): value for name, value in known.items()}
    yield _gauge(
        "cascade_stage2_budget",
        "Budget of a period (`limit`) and what could be spent now (`available`).",
        amounts,
        "what",
        "unit",
    )
    spent = {} if budget is None else {unit: budget.spent}
    yield _counter(
        "cascade_stage2_budget_spent",
        "What calls to Stage-2 cost, with what is set aside for those under way.",
        spent,
        "unit",
    )
    share = None if budget is None else budget.share
    yield _gauge("cascade_stage2_budget_affordable_ratio", "Share of the hand-offs that can be afforded.", _one(share))
    least = None if budget is None else budget.least_gain
    yield _gauge(
        "cascade_stage2_budget_least_gain", "Expected gain in accuracy from which an image is handed on.", _one(least)
    )


def bundle(miner: LiveMiner) -> Iterator[Metric]:
    """The live bundle, and how often it changed."""
    follower = miner.follower
    slot = follower.slot
    info = GaugeMetricFamily(
        "cascade_bundle_info", "The live bundle.", labels=("bundle", "engine", "policy", "stream", "vouched_by")
    )
    created = None
    if slot.generation:
        with slot.lease() as lease:
            live = lease.bundle
            told = (
                live.bundle_id,
                str(live.engine.describe()),
                live.params.status,
                live.params.stream,
                live.vouched_by,
            )
            created = live.manifest.provenance.created_at
        info.add_metric(told, 1)
    yield info
    yield _gauge(
        "cascade_bundle_generation", "Generation of the live bundle; 0 if there is none.", _one(slot.generation)
    )
    yield _gauge("cascade_bundle_created_timestamp_seconds", "When the live bundle was published.", _seconds(created))
    yield _gauge("cascade_bundle_standby", "1 if a bundle stands by for a rollback.", _one(slot.standby is not None))
    yield _gauge("cascade_bundle_leases", "Requests that use a bundle at this moment.", _one(sum(slot.leases.values())))
    yield _counter("cascade_bundle_swaps", "Times that the live bundle was replaced.", _one(follower.swaps))
    yield _counter("cascade_bundle_refusals", "Times that a bundle was refused.", _one(follower.refusals))


def certificate(miner: LiveMiner) -> Iterator[Metric]:
    """What the certificate of the live bundle says; rates only where they were computed."""
    info = GaugeMetricFamily(
        "cascade_certificate_info", "The certificate of the live bundle.", labels=("status", "mode", "risk", "unit")
    )
    target: float | None = None
    delta: float | None = None
    coverage: dict[tuple[str, ...], float] = {}
    if miner.follower.slot.generation:
        with miner.follower.slot.lease() as lease:
            params = lease.bundle.params
        info.add_metric((params.status, params.mode, params.risk, params.unit), 1)
        if params.status == "CERTIFIED":
            target, delta = params.alpha, params.delta
        if (rate := params.exit_coverage) is not None:
            known = {"lower": rate.lower, "observed": rate.estimate, "upper": rate.upper}
            coverage = {(name,): value for name, value in known.items() if value is not None}
    yield info
    yield _gauge("cascade_certificate_risk_limit_ratio", "Certified limit of the risk (alpha).", _one(target))
    yield _gauge(
        "cascade_certificate_delta_ratio",
        "One minus the confidence in all certificates on its calibration rows together (delta).",
        _one(delta),
    )
    yield _gauge(
        "cascade_calibration_exit_coverage_ratio",
        "Share of the calibration units that exit: observed, with its one-sided bounds.",
        coverage,
        "estimate",
    )


def chain(miner: LiveMiner) -> Iterator[Metric]:
    """What is known of the subnet."""
    known = miner.chain()
    yield _gauge("cascade_chain_block", "Block of the last metagraph that was read.", _one(known["block"]))
    yield _gauge("cascade_metagraph_neurons", "Neurons in that metagraph.", _one(known["neurons"]))
    yield _gauge("cascade_metagraph_read_timestamp_seconds", "When that metagraph was read.", _one(known["fetched_at"]))
    yield _counter("cascade_chain_failures", "Readings of the metagraph that failed.", _one(known["failures_total"]))
    yield _gauge("cascade_hotkey_registered", "1 if our hotkey is on the subnet.", _by(known["registered"]), "hotkey")


def nightly(miner: LiveMiner) -> Iterator[Metric]:
    """The nightly job."""
    known = miner.nightly()
    yield _gauge("cascade_nightly_running", "1 while the nightly job runs.", _one(known["running"]))
    for name, key, says in (
        ("start", "started_at", "When the last run started, also before a restart."),
        ("end", "ended_at", "When the last run ended, also before a restart."),
        ("success", "last_success", "When the last run that succeeded started, also before a restart."),
    ):
        yield _gauge(f"cascade_nightly_last_{name}_timestamp_seconds", says, _seconds(known[key]))
    due = _seconds(known["next_at"])
    yield _gauge("cascade_nightly_next_start_timestamp_seconds", "When the next run of this process is due.", due)
    yield _counter("cascade_nightly_runs", "Runs that ended, by outcome.", _by(known["outcomes"]), "outcome")
    for name in ("outcome", "verdict"):
        last = {known[name]: 1} if known[name] else {}
        yield _gauge(f"cascade_nightly_last_{name}", f"1 for the {name} of the last run that ended.", _by(last), name)
    in_a_row = _one(known["failures_in_a_row"])
    yield _gauge("cascade_nightly_failures_in_a_row", "Nights that failed since one succeeded.", in_a_row)


def disks(miner: LiveMiner) -> Iterator[Metric]:
    """How long disks have been waited for."""
    waits = {(name,): seconds for name, seconds in miner.disks().items()}
    yield _gauge("cascade_disk_wait_seconds", "How long what is done on this disk has taken by now.", waits, "disk")


def readiness(miner: LiveMiner) -> Iterator[Metric]:
    """The conditions of `/readyz`."""
    holds = {(found.name,): found.holds for found in conditions(miner)}
    yield _gauge("cascade_ready", "1 if this condition of readiness holds.", holds, "condition")


def threads() -> Iterator[Metric]:
    """Threads of the process, native ones as well where the system tells."""
    tasks = Path("/proc/self/task")
    number = len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()
    yield _gauge("cascade_process_threads", "Threads of the process.", _one(number))

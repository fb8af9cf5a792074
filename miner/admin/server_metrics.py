"""Metrics of the servers that compute Stage-1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric


def stage1_servers(servers: Sequence[Mapping[str, Any]], own_batches: int | None) -> Iterator[Metric]:
    """What they do; without a sample where this process computes.

    Args:
        servers: see `engines.live.swap.status.Status.servers`.
        own_batches: see `engines.live.swap.status.Status.own_batches`.
    """
    state = GaugeMetricFamily(
        "cascade_stage1_server_state", "1 for how a Stage-1 server stands.", labels=("server", "state")
    )
    under_way = GaugeMetricFamily(
        "cascade_stage1_server_in_flight", "Batches that are under way at a Stage-1 server.", labels=("server",)
    )
    batches = CounterMetricFamily(
        "cascade_stage1_server_batches", "Batches that a Stage-1 server computed.", labels=("server",)
    )
    failures = CounterMetricFamily(
        "cascade_stage1_server_failures",
        "Times that a Stage-1 server lost its permission to answer.",
        labels=("server",),
    )
    for one in servers:
        state.add_metric((one["url"], one["state"]), 1)
        under_way.add_metric((one["url"],), one["in_flight"])
        batches.add_metric((one["url"],), one["batches"])
        failures.add_metric((one["url"],), one["failures"])
    own = CounterMetricFamily("cascade_stage1_own_batches", "Batches that no server computed, and this process did.")
    if own_batches is not None:
        own.add_metric((), own_batches)
    yield from (state, under_way, batches, failures, own)

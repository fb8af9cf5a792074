"""The administrator's endpoint of a running miner, where its settings want one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from engines.machine.clock import utc_now
from miner.admin.live_miner import LiveMiner
from miner.admin.settings import AdminSettings
from miner.axon.server import ABORT_S, AxonServer
from miner.axon.settings import AxonSettings

if TYPE_CHECKING:
    # Many miners have no such endpoint, and what it needs takes a while to import.
    from miner.admin.history import History
    from miner.admin.request_metrics import RequestMetrics

MINUTE_S = 60.0


def open_metrics(settings: AdminSettings, refused: Callable[[], int]) -> RequestMetrics | None:
    """What measures requests; None where nobody can ask for it.

    Args:
        settings: whether there is an endpoint.
        refused: how many were refused since the start.
    """
    if settings.port is None:
        return None
    from prometheus_client import CollectorRegistry  # noqa: PLC0415

    from miner.admin.history import History  # noqa: PLC0415
    from miner.admin.request_metrics import RequestMetrics  # noqa: PLC0415

    return RequestMetrics(CollectorRegistry(), History(refused))


async def open_admin(settings: AdminSettings, live: LiveMiner, metrics: RequestMetrics, stack: AsyncExitStack) -> None:
    """Listen.

    Args:
        settings: where.
        live: what is told.
        metrics: what is measured.
        stack: closes it.

    Raises:
        ServerError: the port cannot be taken.
    """
    from miner.admin.api import admin_app  # noqa: PLC0415

    where = AxonSettings(host="127.0.0.1", port=settings.port or 0, max_connections=32)
    server = AxonServer(admin_app(live, metrics, utc_now), where, name="admin")
    await server.start()
    stack.push_async_callback(server.stop, ABORT_S)
    minutes = asyncio.create_task(_minutes(metrics.history), name="close minutes")
    stack.callback(minutes.cancel)


async def _minutes(history: History) -> None:
    """A point of the history for each minute, for ever."""
    while True:
        await asyncio.sleep(MINUTE_S)
        history.close_minute(utc_now().timestamp())

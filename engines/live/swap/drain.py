"""Replaced bundles that requests use for too long."""

from __future__ import annotations

import asyncio

import structlog

from engines.live.slot import BundleSlot

log = structlog.get_logger(__name__)


async def report_overdue(slot: BundleSlot, generation: int, after_s: float) -> None:
    """Wait, and then warn of requests that still use a generation from before `generation`."""
    await asyncio.sleep(after_s)
    late = {old: users for old, users in slot.leases.items() if old < generation and users}
    if late:
        log.warning("drain_overdue", after_s=after_s, leases=late)

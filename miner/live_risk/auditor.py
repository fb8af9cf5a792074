"""Has Stage-2 look at audited exits, never where a request could want its place."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import partial

import structlog

from engines.live.slot import BundleSlot
from engines.live.swap.follower import StoreFollower
from engines.machine.background_tasks import begun_in_thread
from miner.live_risk.live_risk import LiveRisk
from stage1.errors import CascadeError
from stage2_bridge.bridge import Bridge
from stage2_bridge.client import Outcome

log = structlog.get_logger(__name__)

HOUR_S = 3600.0
# Of the hand-offs that may be under way: above this share the rest belongs to requests.
BUSY_SHARE = 0.5
# With these a server was asked, or may have been.
SENT = frozenset({Outcome.ANSWERED, Outcome.TIMEOUT, Outcome.ERROR})


class Auditor:
    """Asks about one audit at a time, the oldest first.

    Args:
        risk: what is audited.
        bridge: the way to Stage-2; where there is none, people label all audits.
        slot: holds the live bundle.
        clock: monotonic time in seconds.
        every_s: time between two looks at what waits.
    """

    def __init__(
        self,
        risk: LiveRisk,
        bridge: Bridge,
        slot: BundleSlot,
        *,
        clock: Callable[[], float],
        every_s: float = 2.0,
    ) -> None:
        self._risk = risk
        self._bridge = bridge
        self._slot = slot
        self._clock = clock
        self._every_s = every_s
        self._asked_at: deque[float] = deque()
        self._seconded: set[int] = set()

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                await self._look()
            except (CascadeError, OSError) as error:
                # A disk that is full: what was not written is asked again.
                self._risk.lost.add("audit_failed", str(error))
            await asyncio.sleep(self._every_s)

    async def _look(self) -> None:
        if self._slot.generation:
            with self._slot.lease() as lease:
                # In the thread: what was audited before is read again.
                await self._risk.in_thread(partial(self._risk.live, lease.bundle))
        await self._risk.in_thread(self._risk.tick)
        while await self.ask_one():
            pass

    async def ask_one(self) -> bool:
        """Ask about one audit, if there is one, time for it and no request that could want its place.

        Returns:
            Whether there was a verdict.
        """
        if not (self._risk.settings.audits and self._may_ask()):
            return False
        wanted = await self._risk.in_thread(self._risk.unasked)
        if wanted is None:
            return await self._ask_second()
        certificate, drawn, content = wanted
        began = self._clock()
        # What Stage-1 is sure of is worth the least to a budget, so audits take none of it from requests.
        verdict = await self._bridge.ask(
            content,
            began + self._risk.settings.verdict_s,
            turn=math.inf,
            probability=drawn.probability,
            digest=drawn.image_sha256,
        )
        if verdict.outcome in SENT:
            self._asked_at.append(began)
        if verdict.outcome is not Outcome.ANSWERED or verdict.probability is None:
            return False
        said = partial(self._risk.said, certificate, drawn.number, verdict.server, verdict.probability)
        await self._risk.in_thread(said)
        return True

    def _may_ask(self) -> bool:
        now, stats = self._clock(), self._bridge.stats
        while self._asked_at and now - self._asked_at[0] >= HOUR_S:
            self._asked_at.popleft()
        within = len(self._asked_at) < self._risk.settings.audits_per_hour
        # An audit can wait until nothing is kept from a hand-off; which ones wait has nothing to do with their images.
        if stats.budget is not None and stats.budget.share < 1:
            return False
        return within and not stats.waiting and stats.in_flight < stats.most * BUSY_SHARE

    async def _ask_second(self) -> bool:
        """Ask another model about what the first one flags; a miss is what both see."""
        second = self._risk.settings.second_server
        if second is None:
            return False
        wanted = await self._risk.in_thread(partial(self._risk.flagged, self._seconded))
        if wanted is None:
            return False
        certificate, number, content, server = wanted
        self._seconded.add(number)
        if server == second:
            return True
        try:
            said = await self._bridge.ask_one(second, content, self._risk.settings.verdict_s)
        except (CascadeError, TimeoutError) as error:
            log.debug("second_model_failed", reason=str(error))
            self._seconded.discard(number)
            return False
        if said > 0.5:
            await self._risk.in_thread(partial(self._risk.labelled, certificate, number, 1, "second_model"))
        return True


async def roll_back(risk: LiveRisk, follower: StoreFollower, now: Callable[[], datetime]) -> bool:
    """Go back to the bundle before, if it is certified, stands by, and has no alarm of its own.

    Returns:
        Whether it did; if not, the bundle stays live and lets nothing exit as no roadwork.
    """
    back = follower.slot.standby
    try:
        if back is None or not await begun_in_thread(partial(risk.healthy, back), "audits"):
            log.warning("not_rolled_back", reason="no certified bundle without an alarm stands by")
            return False
        await follower.rollback(now=now())
    except (CascadeError, OSError) as error:
        log.error("not_rolled_back", reason=str(error))
        return False
    return True

"""The bridge: sends what was deferred to Stage-2 and comes back in time, with an answer or with the reason for none."""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import structlog

from engines.machine.tally import Tally
from stage2_bridge.client import (
    BudgetStatus,
    NamedProbability,
    Outcome,
    ServerStatus,
    SeveralServers,
    Stage2Client,
    Stage2Error,
    Stage2Gone,
    Verdict,
)
from stage2_bridge.protection.settings import CacheSettings
from stage2_bridge.protection.verdict_cache import KeptVerdict, VerdictCache
from stage2_bridge.slots import Slots

log = structlog.get_logger(__name__)

CLOSE_S = 2.0
# Of the last answer in the time that answers usually take.
NEW_SHARE = 0.2
# Between two looks at who was not asked of late.
WATCH_S = 1.0
MOST_TOLD_CHARACTERS = 300
OFF = CacheSettings(window_s=0)


@dataclass(frozen=True)
class BridgeStats:
    """What a bridge has done since it began.

    Attributes:
        in_flight: hand-offs that are under way, those that nobody waits for any more among them.
        waiting: images that wait for one of them to end.
        most: hand-offs at a time; 0 where there is no Stage-2.
        outcomes: what became of the hand-offs so far, by `Outcome`.
        servers: how each server stands, where the client asks several.
        cached: hand-offs that took the verdict of another one, by whether that was `finished` or `under_way`.
        failures: of Stage-2, by kind of error.
        hedges: see `SeveralServers.hedges`; of the present servers.
        budget: how the budget stands; None without one.
    """

    in_flight: int
    waiting: int
    most: int
    outcomes: dict[str, int]
    servers: tuple[ServerStatus, ...] = ()
    cached: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    hedges: dict[str, int] = field(default_factory=dict)
    budget: BudgetStatus | None = None


class _Found(NamedTuple):
    """What came of a hand-off; see `Verdict`."""

    outcome: Outcome
    probability: float | None = None
    server: str = ""
    reason: str = ""
    cached: bool = False


class _Asked(NamedTuple):
    """A client, and the same one again if it asks several servers; to find that out takes a while."""

    client: Stage2Client
    several: SeveralServers | None


def _asked(client: Stage2Client | None) -> _Asked | None:
    return None if client is None else _Asked(client, client if isinstance(client, SeveralServers) else None)


@dataclass(eq=False)
class _Flight:
    """A hand-off under way, and how many callers wait for it; it is given up with the last of them."""

    task: asyncio.Task[_Found]
    until: float
    callers: int = 0

    async def join(self, timeout_s: float) -> _Found | None:
        """What comes of it; None if that takes longer."""
        self.callers += 1
        try:
            # Not `wait_for`, which would cancel it for all.
            await asyncio.wait({self.task}, timeout=timeout_s)
        finally:
            self.callers -= 1
            if not self.callers:
                self.task.cancel()
        if not self.task.done():
            return None
        return self.task.result()


class Bridge:
    """Asks Stage-2, bounded in time and in number.

    Args:
        client: the server, or None for a cascade without Stage-2.
        max_in_flight: hand-offs at a time.
        max_waiting: how many more wait for one to end, while what an answer takes is still left of their time; the
            others are refused at once.
        cache: how long a verdict is used for the same bytes; by default each image is asked for.
        calibrated: the probability that the score of a server means, by its name; the score itself by default.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        client: Stage2Client | None,
        *,
        max_in_flight: int,
        max_waiting: int = 0,
        cache: CacheSettings = OFF,
        calibrated: Callable[[str, float], float] = lambda _, score: score,
        clock: Callable[[], float],
    ) -> None:
        self._asked = _asked(client)
        self._calibrated = calibrated
        self._slots = Slots(max_in_flight, max_waiting)
        # What an answer took of late.
        self._usual_s = 0.0
        self._clock = clock
        self._failed = Tally("stage2_failed", clock=clock)
        self._outcomes: Counter[str] = Counter()
        self._shared: Counter[str] = Counter()
        self._cache = VerdictCache(cache, clock) if cache.window_s else None
        self._flights: dict[str, _Flight] = {}

    async def ask(
        self,
        content: bytes,
        deadline: float,
        *,
        turn: float | None = None,
        probability: float | None = None,
        digest: str = "",
    ) -> Verdict:
        """Hand an image to Stage-2; never raises for anything Stage-2 does.

        Args:
            content: the image as it arrived.
            deadline: monotonic time by which this returns.
            turn: of those that wait for a hand-off the one with the smallest goes first; the deadline if it is not
                given. Where callers choose the deadline themselves, give the time at which they came.
            probability: Stage-1's calibrated probability of roadwork, by which a budget knows what an answer is worth.
            digest: SHA-256 of the content in hexadecimal digits; computed if it is not given and needed.
        """
        started = self._clock()
        asked = self._asked
        if asked is None:
            found = _Found(Outcome.ABSENT)
        elif deadline <= started:
            found = _Found(Outcome.TIMEOUT, reason="no time was left")
        elif self._cache is None:
            found = await self._handed(content, deadline, deadline if turn is None else turn, probability)
        else:
            key = digest or hashlib.sha256(content).hexdigest()
            found = await self._once(self._cache, key, content, deadline, turn, probability)
        self._outcomes[found.outcome.value] += 1
        latency_ms = (self._clock() - started) * 1e3
        server = found.server or ("" if asked is None else asked.client.name)
        return Verdict(found.outcome, found.probability, latency_ms, server, found.reason, found.cached)

    @property
    def stats(self) -> BridgeStats:
        """What it has done so far."""
        several = None if self._asked is None else self._asked.several
        return BridgeStats(
            in_flight=self._slots.taken,
            waiting=self._slots.waiting,
            most=0 if self._asked is None else self._slots.most,
            outcomes=dict(self._outcomes),
            servers=() if several is None else several.servers,
            cached=dict(self._shared),
            failures=dict(self._failed.counts),
            hedges={} if several is None else several.hedges,
            budget=None if several is None else several.budget,
        )

    def change(
        self, client: Stage2Client | None, *, max_in_flight: int, max_waiting: int, cache: CacheSettings
    ) -> None:
        """Ask other servers from the next hand-off on; those under way end where they began.

        Args:
            client: as at the beginning; the old one is closed by whoever made it, when nothing is under way there.
            max_in_flight: as at the beginning.
            max_waiting: as at the beginning.
            cache: as at the beginning; verdicts of the old servers are forgotten.
        """
        self._asked = _asked(client)
        self._slots.resize(max_in_flight, max_waiting)
        self._cache = VerdictCache(cache, self._clock) if cache.window_s else None
        # Who comes with the same bytes asks the new ones.
        self._flights = {}

    async def ask_one(self, server: str, content: bytes, timeout_s: float) -> float:
        """The calibrated probability of roadwork by one server, which is asked or nobody is; no hand-off.

        Args:
            server: its name.
            content: the image as it arrived.
            timeout_s: longest time.

        Raises:
            Stage2Error: as of `SeveralServers.ask_one`, or what it answered is no probability.
            TimeoutError: there was no answer in time.
        """
        several = None if self._asked is None else self._asked.several
        if several is None:
            raise Stage2Gone(f"no server is called {server!r}")
        async with asyncio.timeout(timeout_s):
            score = _checked(await several.ask_one(server, content, timeout_s))
        return self._calibrated(server, float(score))

    async def watch(self) -> None:
        """Probe servers that nobody asks, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            if self._asked is not None and self._asked.several is not None:
                await self._asked.several.probe()

    async def close(self) -> None:
        """Close the client; one that is computing still is not waited for."""
        if self._asked is None:
            return
        closing = asyncio.ensure_future(self._asked.client.close())
        await asyncio.wait({closing}, timeout=CLOSE_S)
        if closing.done():
            closing.result()
        else:
            closing.cancel()

    async def _once(
        self,
        cache: VerdictCache,
        key: str,
        content: bytes,
        deadline: float,
        turn: float | None,
        probability: float | None,
    ) -> _Found:
        """Ask for an image, unless its verdict is known or on its way; a failure is shared and not kept."""
        while True:
            if (kept := cache.get(key)) is not None:
                self._shared["finished"] += 1
                return _Found(Outcome.ANSWERED, kept.probability, kept.server, cached=True)
            # One that nobody waits for is being given up.
            if (flight := self._flights.get(key)) is None or not flight.callers:
                break
            found = await flight.join(deadline - self._clock())
            if found is None:
                return _Found(Outcome.TIMEOUT, reason="no answer in time")
            # It had less time than this one, and would have needed more.
            if found.outcome in {Outcome.TIMEOUT, Outcome.BUSY} and flight.until < deadline > self._clock():
                continue
            self._shared["under_way"] += 1
            return found._replace(cached=True)
        handed = self._handed(content, deadline, deadline if turn is None else turn, probability)
        flight = _Flight(asyncio.ensure_future(handed), deadline)
        self._flights[key] = flight
        flights = self._flights

        def ended(task: asyncio.Task[_Found]) -> None:
            if flights.get(key) is flight:
                del flights[key]
            if task.cancelled() or task.exception() is not None:
                return
            found = task.result()
            if found.outcome is Outcome.ANSWERED and found.probability is not None:
                cache.put(key, KeptVerdict(found.probability, found.server))

        flight.task.add_done_callback(ended)
        return await flight.join(deadline - self._clock()) or _Found(Outcome.TIMEOUT, reason="no answer in time")

    async def _handed(self, content: bytes, deadline: float, turn: float, probability: float | None) -> _Found:
        if not await self._slots.take(turn, deadline - self._clock() - self._usual_s):
            return _Found(Outcome.BUSY, reason="no turn in time")
        began = self._clock()
        task = asyncio.ensure_future(self._answer(content, deadline, probability))
        task.add_done_callback(self._ended)
        try:
            # Not `wait_for`: it would wait on for a client that does not let go when it is cancelled.
            await asyncio.wait({task}, timeout=deadline - began)
        finally:
            task.cancel()
        if not task.done():
            return _Found(Outcome.TIMEOUT, reason="no answer in time")
        found = self._result(task)
        if found.outcome is Outcome.ANSWERED:
            self._usual_s += NEW_SHARE * (self._clock() - began - self._usual_s)
        return found

    async def _answer(self, content: bytes, deadline: float, probability: float | None) -> float:
        # Whatever is raised, and whenever, ends the hand-off: foreign code may fail before there is anything to wait
        # for. Who is asked is decided in this moment: servers that are replaced may be closed when nobody asks them.
        asked = self._asked
        if asked is None:
            raise Stage2Gone("there is no Stage-2 any more")
        left_s = deadline - self._clock()
        if asked.several is not None:
            return await asked.several.ask(content, left_s, probability=probability)
        return await asked.client.ask(content, left_s)

    def _ended(self, task: asyncio.Task[float]) -> None:
        self._slots.give_back()
        if not task.cancelled():
            # Fetched, so that a failure after the deadline does not reach the loop's handler.
            task.exception()

    def _result(self, task: asyncio.Task[float]) -> _Found:
        server = "" if self._asked is None else self._asked.client.name
        try:
            probability = _checked(task.result())
        except TimeoutError:
            return _Found(Outcome.TIMEOUT, reason="no answer in time")
        except Stage2Error as error:
            reason = str(error)[:MOST_TOLD_CHARACTERS]
            log.debug("stage2_failed", server=server, reason=reason)
            self._failed.add(type(error).__name__, reason, server=server)
            return _Found(error.outcome, reason=reason)
        except (Exception, asyncio.CancelledError) as error:
            # The edge to foreign code: whatever is wrong there, the request is answered with Stage-1's probability.
            log.debug("stage2_failed", server=server, exc_info=error)
            self._failed.add(type(error).__name__, repr(error), error=error, server=server)
            return _Found(Outcome.ERROR, reason=type(error).__name__)
        named = probability.server if isinstance(probability, NamedProbability) else server
        return _Found(Outcome.ANSWERED, self._calibrated(named, float(probability)), named)


def _checked(probability: float) -> float:
    # Its type is a promise of foreign code.
    if not isinstance(probability, int | float) or not (math.isfinite(probability) and 0 <= probability <= 1):
        raise Stage2Error(f"it answered {probability!r}, which is no probability")
    return probability if isinstance(probability, NamedProbability) else float(probability)

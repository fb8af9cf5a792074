"""One of several Stage-2 servers, and who of them is asked first."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Protocol, TypeVar, runtime_checkable

import structlog

from engines.errors import EngineError
from stage1.errors import Stage1Error
from stage2_bridge.client import ServerIdentity, Stage2Client, Stage2Error
from stage2_bridge.protection.breaker import Breaker, Call, State
from stage2_bridge.protection.budget.budget import Budget, Claim, Reservation
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.byte_rate import ByteRate

log = structlog.get_logger(__name__)

Told = TypeVar("Told")
FULL, RESTING, DOWN = "full", "resting", "down"
# Longest wait for what a call costs to be written down, where no image waits for its answer.
WRITTEN_S = 10.0
# Of the newest answer in the time that answers take; and how fast what is known of a server that is not asked fades.
NEW_SHARE, FADES_S = 0.1, 10.0


class Checked(Stage2Client, Protocol):
    """A Stage-2 client that can say whether its server would answer."""

    async def check(self, timeout_s: float) -> str:
        """What the server says of itself, in a line.

        Raises:
            EngineError: it does not answer, or is not what the settings say.
            Stage2Error: what it answers cannot be read.
        """
        ...

    async def identity(self, timeout_s: float) -> ServerIdentity:
        """Who answers, asked of the server itself, with an image where nothing else tells.

        Args:
            timeout_s: for everything that is asked.

        Raises:
            EngineError: it does not answer, or is not what the settings say.
            Stage2Error: what it answers cannot be read.
        """
        ...


@runtime_checkable
class Probed(Protocol):
    """A client that can ask whether its server is there, for nothing."""

    async def probe(self, timeout_s: float) -> None:
        """Have the server answer anything that costs nothing.

        Raises:
            EngineError: it does not, or says that it is not ready.
        """
        ...


@dataclass
class Member:
    """One of the servers.

    Attributes:
        client: asks it.
        breaker: knows how it did of late.
        most: requests at a time.
        equal: whether it is as good as the one before it.
        cost: of a call, as the budget counts it; None for nothing.
        rate: bounds the bytes that are sent to it and others; None where none are sent.
        check_calls: what `check` costs, in calls.
        made_from: what the client was made from; equal for two that would do the same.
        in_flight: requests under way.
        asked_at: monotonic time of the last request, in seconds.
        answered_at: of its last answer.
        probed_at: of the last probe.
        rests_until: it asked to be left alone until then.
        is_down: whether it did not answer the last probe.
        usual_s: what its answers took of late; 0 while there was none.
    """

    client: Checked
    breaker: Breaker
    most: int
    equal: bool = False
    cost: Cost | None = None
    rate: ByteRate | None = None
    check_calls: int = 1
    made_from: object = None
    in_flight: int = field(default=0, init=False)
    asked_at: float = field(default=-math.inf, init=False)
    answered_at: float = field(default=-math.inf, init=False)
    probed_at: float = field(default=-math.inf, init=False)
    rests_until: float = field(default=-math.inf, init=False)
    is_down: bool = field(default=False, init=False)
    usual_s: float = field(default=0.0, init=False)

    def answered(self, now: float, took_s: float) -> None:
        """Take note of an answer.

        Args:
            now: monotonic time in seconds.
            took_s: what it took.
        """
        known_s = self.expected_s(now)
        self.usual_s = known_s + NEW_SHARE * (took_s - known_s) if self.usual_s else took_s
        self.answered_at, self.is_down = now, False

    def expected_s(self, now: float) -> float:
        """What an answer may take; less and less where none came for long, so that a slow server is tried again."""
        return self.usual_s * math.exp(-(now - self.answered_at) / FADES_S) if self.usual_s else 0.0

    def state(self, now: float) -> str:
        """Why it is not asked, or how its breaker stands.

        Args:
            now: monotonic time in seconds.
        """
        breaker = self.breaker.state
        if breaker is State.OPEN:
            return breaker.value
        if now < self.rests_until:
            return RESTING
        if self.in_flight >= self.most:
            return FULL
        return DOWN if self.is_down and breaker is State.CLOSED else breaker.value

    async def affords(self, budget: Budget | None, calls: int) -> bool:
        """Whether a budget pays for calls that answer no image; it has paid if so."""
        if budget is None or self.cost is None:
            return True
        return await reserved(budget, self.cost, calls)

    def is_free(self, now: float) -> bool:
        """Whether it has room and does not rest; of its breaker that says nothing."""
        return self.in_flight < self.most and now >= self.rests_until


async def reserved(budget: Budget, cost: Cost, calls: int) -> bool:
    """Whether a budget pays for calls that answer no image; it has paid if so, and that is on disk.

    Args:
        budget: that pays.
        cost: of each call.
        calls: how many.
    """
    claim, paid = budget.claim(None), list[Reservation]()
    for _ in range(calls):
        if (one := claim.reserve(cost)) is None:
            break
        paid.append(one)
    if len(paid) == calls and all([await one.is_written(WRITTEN_S) for one in paid]):
        return True
    for one in paid:
        one.give_back()
    return False


@dataclass(eq=False)
class Chosen:
    """A server that is to be asked, in which there is a place for it.

    Attributes:
        member: the server.
        call: the breaker's leave.
        paid: what is set aside for the call; None where it costs nothing.
        is_begun: whether somebody asks it and will give the place back.
    """

    member: Member
    call: Call
    paid: Reservation | None
    is_begun: bool = False


@dataclass(eq=False)
class Waiting:
    """An image that waits for a place.

    Attributes:
        called: done when there may be one.
        claim: of its hand-off, to be paid for; None without a budget.
    """

    called: asyncio.Future[None]
    claim: Claim | None

    def may_ask(self, member: Member) -> bool:
        """Whether a place in a server is one for this image."""
        return member.cost is None or self.claim is None or self.claim.admits(member.cost)


def ranks(members: Sequence[Member]) -> tuple[tuple[Member, ...], ...]:
    """The servers by rank: those that are equal to the one before them share its rank."""
    found: list[list[Member]] = []
    for member in members:
        if member.equal and found:
            found[-1].append(member)
        else:
            found.append([member])
    return tuple(map(tuple, found))


def in_order(ranked: Sequence[Sequence[Member]], now: float) -> Iterator[Member]:
    """The servers in the order in which they are asked.

    By rank; of one rank who has the fewest requests under way for what its answers take, which is the fewest where they
    take the same, and of these who was not asked for the longest. Who did not answer its last probe comes after all
    others, for a probe may be wrong.

    Args:
        ranked: see `ranks`.
        now: monotonic time in seconds.

    Reference:
        Twitter Finagle, user guide, Clients, Load balancing: least loaded by an exponentially weighted moving average.
    """
    if len(ranked) == 1 and len(ranked[0]) == 1:
        return iter(ranked[0])
    by_load = (sorted(rank, key=partial(_load, now)) if len(rank) > 1 else rank for rank in ranked)
    return iter(sorted(chain.from_iterable(by_load), key=_is_down))


def _load(now: float, member: Member) -> tuple[float, int, float]:
    return (member.in_flight + 1) * member.expected_s(now), member.in_flight, member.asked_at


def _is_down(member: Member) -> bool:
    return member.is_down


async def of_each(members: Sequence[Member], ask: Callable[[Member], Awaitable[Told]]) -> dict[str, Told | Exception]:
    """What comes of asking each server, by name, or what was wrong; all at once.

    Args:
        members: the servers.
        ask: asks one; what it raises of a fault of the server is returned.
    """
    told = await asyncio.gather(*map(ask, members), return_exceptions=True)
    found: dict[str, Told | Exception] = {}
    for member, one in zip(members, told, strict=True):
        if isinstance(one, BaseException) and not isinstance(one, EngineError | Stage1Error | Stage2Error):
            raise one
        found[member.client.name] = one
    return found


async def close_all(members: Sequence[Member]) -> None:
    """Close the clients; one that fails is told, and keeps no other open."""
    ends = await asyncio.gather(*(one.client.close() for one in members), return_exceptions=True)
    for member, end in zip(members, ends, strict=True):
        if isinstance(end, Exception):
            log.warning("stage2_server_not_closed", server=member.client.name, reason=repr(end))

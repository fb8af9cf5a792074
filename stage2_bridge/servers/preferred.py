"""Several Stage-2 servers in order of preference, as one: whoever fails or is full is passed over."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from engines.errors import EngineError, RemoteError
from stage1.errors import Stage1Error
from stage2_bridge.client import (
    ImageRefused,
    NamedProbability,
    ServerIdentity,
    ServerStatus,
    Stage2Client,
    Stage2Error,
)
from stage2_bridge.protection.breaker import Breaker, Call, State

log = structlog.get_logger(__name__)

# Before the one server that there is is asked again, if it does not say when.
PAUSE_S = 0.05
# Of the time that an attempt was given: who is given up after it was too slow, and before it was not waited for.
LATE_SHARE = 0.9
# Callers choose their own deadlines. Who has no answer after less says nothing of the server.
FAIR_S = 1.0
FULL = "full"
# What a server says that fails on one image, and one that fails on all. It is the image if another was answered so
# short a time ago.
FAILS, ANSWERS_S = 500, 5.0
# Of replies that blame the request, which is an image that a caller chose.
REFUSED = frozenset({400, 413, 415, 422})


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


@dataclass
class Member:
    """One of the servers.

    Attributes:
        client: asks it.
        breaker: knows how it did of late.
        most: requests at a time.
        in_flight: requests under way.
        answered_at: monotonic time of its last answer, in seconds.
    """

    client: Checked
    breaker: Breaker
    most: int
    in_flight: int = field(default=0, init=False)
    answered_at: float = field(default=-math.inf, init=False)

    @property
    def state(self) -> str:
        """Why it is not asked, or how its breaker stands."""
        if self.breaker.state is not State.OPEN and self.in_flight >= self.most:
            return FULL
        return self.breaker.state.value


class PreferredServers:
    """One `Stage2Client` for several servers.

    An image is sent to the first server that is neither open nor full, and waits where all that are not open are full.
    If nothing was computed there (it could not be reached, or said 429, 502 or 503), it is sent once more, to the next
    one or to the same; everything else that fails ends the hand-off, because a second inference would cost the time of
    the first. What a caller can bring about alone, by an image that is refused or failed on, or by too little time,
    does not count as a failure of the server: one caller could have it left alone for all.

    Args:
        members: in order of preference.
        clock: monotonic time in seconds.
    """

    def __init__(self, members: Sequence[Member], clock: Callable[[], float]) -> None:
        self._members = tuple(members)
        self._clock = clock
        # Of those that wait for a place; whoever gave up stays in it until it is its turn.
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return ", ".join(member.client.name for member in self._members)

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """See `SeveralServers.servers`."""
        return tuple(ServerStatus(one.client.name, one.state, one.in_flight) for one in self._members)

    @property
    def states(self) -> dict[str, str]:
        """How each server stands, by name."""
        return {one.name: one.state for one in self.servers}

    async def ask(self, content: bytes, timeout_s: float) -> NamedProbability:
        """See `Stage2Client.ask`."""
        until = self._clock() + timeout_s
        first, call = await self._next(until)
        try:
            return await self._attempt(first, call, content, until)
        except RemoteError as error:
            again = await self._again(first, error, until) if error.passing else None
            if again is None:
                raise _failure(first, error) from error
        second, call = again
        try:
            return await self._attempt(second, call, content, until)
        except RemoteError as error:
            raise _failure(second, error) from error

    async def check(self, timeout_s: float) -> dict[str, str | Exception]:
        """What each server says of itself, or what was wrong; asked all at once."""
        told = await asyncio.gather(
            *(member.client.check(timeout_s) for member in self._members), return_exceptions=True
        )
        found: dict[str, str | Exception] = {}
        for member, one in zip(self._members, told, strict=True):
            if isinstance(one, BaseException) and not isinstance(one, EngineError | Stage1Error | Stage2Error):
                raise one
            found[member.client.name] = one
        return found

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await asyncio.gather(*(member.client.close() for member in self._members))

    async def _next(self, until: float) -> tuple[Member, Call]:
        """The first that may be asked, once there is one.

        Raises:
            Stage2Error: there is none; says how they stand.
        """
        # Whoever was called, and found the place taken by one that came later, is the first to be called again.
        line = self._waiting.append
        while True:
            if (found := self._free(None)) is not None:
                return found
            left_s = until - self._clock()
            if left_s <= 0 or FULL not in self.states.values():
                break
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line(called)
            line = self._waiting.appendleft
            try:
                await asyncio.wait({called}, timeout=left_s)
            except asyncio.CancelledError:
                if called.done():
                    self._call_next()
                raise
            finally:
                called.cancel()
        raise Stage2Error(f"no server can be asked: {', '.join(f'{n} is {s}' for n, s in self.states.items())}")

    def _call_next(self) -> None:
        while self._waiting:
            if not (called := self._waiting.popleft()).done():
                called.set_result(None)
                return

    async def _again(self, first: Member, error: RemoteError, until: float) -> tuple[Member, Call] | None:
        """Who is asked after the first has computed nothing: another at once, or whoever is free after a pause."""
        if (other := self._free(first)) is not None:
            return other
        pause_s = PAUSE_S if error.retry_after_s is None else error.retry_after_s
        if self._clock() + pause_s >= until:
            return None
        await asyncio.sleep(pause_s)
        return self._free(None)

    def _free(self, passed: Member | None) -> tuple[Member, Call] | None:
        for member in self._members:
            if member is passed or member.in_flight >= member.most:
                continue
            if (call := member.breaker.admit()) is not None:
                return member, call
        return None

    async def _attempt(self, member: Member, call: Call, content: bytes, until: float) -> NamedProbability:
        began = self._clock()
        given_s = until - began
        member.in_flight += 1
        failed: bool | None = True
        try:
            found = await member.client.ask(content, given_s)
            failed = False
            member.answered_at = self._clock()
        except asyncio.CancelledError:
            late = self._clock() - began >= LATE_SHARE * given_s
            failed = True if late and given_s >= FAIR_S else None
            raise
        except ImageRefused:
            failed = None
            raise
        except RemoteError as error:
            answers = self._clock() - member.answered_at < ANSWERS_S
            the_image = error.status in REFUSED or (error.status == FAILS and answers)
            failed = None if the_image or error.stale or (error.timed_out and given_s < FAIR_S) else True
            raise
        else:
            return NamedProbability(found, member.client.name)
        finally:
            member.in_flight -= 1
            self._call_next()
            before = member.breaker.state
            member.breaker.note(call, failed=failed)
            if (after := member.breaker.state) is not before:
                log.warning("stage2_server", server=member.client.name, state=after.value, before=before.value)


def _failure(member: Member, error: RemoteError) -> Stage2Error:
    told = f"{member.client.name}: {error}"
    return ImageRefused(told) if error.status in REFUSED else Stage2Error(told)

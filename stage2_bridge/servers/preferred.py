"""Several Stage-2 servers in order of preference, as one: whoever fails or is full is passed over."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import structlog

from engines.errors import EngineError, RemoteError
from stage2_bridge.client import (
    BudgetStatus,
    MeteredProbability,
    NamedProbability,
    OverBudget,
    ServerIdentity,
    ServerStatus,
    Stage2Error,
)
from stage2_bridge.protection.breaker import State
from stage2_bridge.protection.budget.budget import Budget, Claim
from stage2_bridge.protection.hedge import Hedge
from stage2_bridge.protection.settings import HedgeSettings
from stage2_bridge.servers.blame import blames_server, failure, was_not_sent
from stage2_bridge.servers.member import (
    FULL,
    Chosen,
    Member,
    Probed,
    Waiting,
    close_all,
    in_order,
    of_each,
    ranks,
)

log = structlog.get_logger(__name__)
# Before the one server that there is is asked again, if it does not say when.
PAUSE_S = 0.05
# A server may ask to be left alone, but not for ever.
LONGEST_REST_S = 30.0
# A probe is answered at once, or the server is not there. One that is not is asked again soon.
PROBE_TIMEOUT_S, DOWN_PROBE_S = 2.0, 1.0


class PreferredServers:
    """One `Stage2Client` for several servers.

    An image is sent to the first server that is neither open nor full, and waits where all that are not open are full.
    If nothing was computed there (it could not be reached, or said 429, 502 or 503), it is sent once more, to the next
    one or to the same; everything else that fails ends the hand-off, because a second inference would cost the time of
    the first. Where hedges are enabled, a second server is asked beside one that takes longer than usual, and that
    takes the place of sending it once more. What a caller can bring about alone, by an image that is refused or failed
    on, or by too little time, does not count as a failure of the server: one caller could have it left alone for all.

    Args:
        members: in order of preference.
        clock: monotonic time in seconds.
        budget: pays for calls to the members that cost something; closed by whoever made it.
        hedge: when a second server is asked.
        probe_s: a server that was not asked for so long is probed; 0 for never.
        before: the servers that these take the place of; an image that waits for them may have a place here.

    Attributes:
        members: see above.
        waiting: images that wait for a place.
    """

    def __init__(
        self,
        members: Sequence[Member],
        clock: Callable[[], float],
        *,
        budget: Budget | None = None,
        hedge: HedgeSettings = HedgeSettings(),  # noqa: B008  it cannot be changed
        probe_s: float = 0.0,
        before: PreferredServers | None = None,
    ) -> None:
        self.members = tuple(members)
        self._ranks = ranks(self.members)
        self._clock = clock
        self._budget = budget
        self._hedge = Hedge(hedge)
        self._probe_s = probe_s
        # Of those that wait for a place; whoever gave up stays in it until it is its turn.
        self.waiting: deque[Waiting] = deque() if before is None else before.waiting
        self._asking = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def name(self) -> str:
        """See `Stage2Client.name`."""
        return ", ".join(member.client.name for member in self.members)

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """See `SeveralServers.servers`."""
        now = self._clock()
        return tuple(ServerStatus(one.client.name, one.state(now), one.in_flight) for one in self.members)

    @property
    def states(self) -> dict[str, str]:
        """How each server stands, by name."""
        return {one.name: one.state for one in self.servers}

    @property
    def budget(self) -> BudgetStatus | None:
        """See `SeveralServers.budget`."""
        return None if self._budget is None else self._budget.status

    @property
    def hedges(self) -> dict[str, int]:
        """See `SeveralServers.hedges`."""
        return {"begun": self._hedge.begun, "won": self._hedge.won}

    async def ask(self, content: bytes, timeout_s: float, *, probability: float | None = None) -> NamedProbability:
        """See `SeveralServers.ask`."""
        until = self._clock() + timeout_s
        claim = None if self._budget is None else self._budget.claim(probability)
        with self._under_way():
            first = await self._next(until, claim)
            delay_s = self._hedge.delay_s()
            if delay_s is not None and len(self.members) > 1:
                return await self._hedged(first, delay_s, content, until, claim)
            try:
                return await self._attempt(first, content, until)
            except RemoteError as error:
                again = await self._again(first.member, error, until, claim)
                if again is None:
                    raise failure(first.member.client.name, error) from error
            try:
                return await self._attempt(again, content, until)
            except RemoteError as error:
                raise failure(again.member.client.name, error) from error

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        """An image is asked about."""
        self._asking += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no image is asked about."""
        await self._idle.wait()

    async def check(self, timeout_s: float) -> dict[str, str | Exception]:
        """What each server says of itself, or what was wrong; asked all at once, as far as the budget goes."""

        async def checked(one: Member) -> str:
            if not await one.affords(self._budget, one.check_calls):
                return "not looked at, for the budget has nothing left for that"
            return await one.client.check(timeout_s)

        return await of_each(self.members, checked)

    async def identities(self, timeout_s: float) -> dict[str, ServerIdentity | Exception]:
        """Who each server is, or what was wrong; asked all at once, as far as the budget goes."""

        async def identity(one: Member) -> ServerIdentity:
            if not await one.affords(self._budget, 1):
                raise OverBudget("not asked who it is, for the budget has nothing left for that")
            return await one.client.identity(timeout_s)

        return await of_each(self.members, identity)

    async def ask_one(self, server: str, content: bytes, timeout_s: float) -> NamedProbability:
        """See `SeveralServers.ask_one`."""
        now = self._clock()
        claim = None if self._budget is None else self._budget.claim(None)
        found = (self._chosen(one, claim, now) for one in self.members if one.client.name == server)
        if (chosen := next(found, None)) is None:
            if claim is not None and claim.refused:
                raise OverBudget(f"the budget does not allow a call to {server}")
            raise Stage2Error(f"{server} cannot be asked, for it is {self.states.get(server, 'none of the servers')}")
        with self._under_way():
            try:
                return await self._attempt(chosen, content, now + timeout_s)
            except RemoteError as error:
                raise failure(server, error) from error

    async def probe(self) -> None:
        """See `SeveralServers.probe`."""
        now = self._clock()
        if not self._probe_s:
            return
        idle = [
            one
            for one in self.members
            if not one.in_flight
            and now - max(one.asked_at, one.probed_at) >= (DOWN_PROBE_S if one.is_down else self._probe_s)
        ]
        await asyncio.gather(*(self._probe(one) for one in idle))

    async def close(self) -> None:
        """See `Stage2Client.close`."""
        await close_all(self.members)

    async def _next(self, until: float, claim: Claim | None) -> Chosen:
        """The first that may be asked, once there is one.

        Raises:
            OverBudget: there is one, and it would cost too much.
            Stage2Error: there is none; says how they stand.
        """
        # Whoever was called, and found the place taken by one that came later, is the first to be called again.
        line, was_called = self.waiting.append, False
        while True:
            if (found := self._free(None, claim)) is not None:
                return found
            now = self._clock()
            # A server that asked for a pause of which the end is near is waited for, as one that is full.
            ends_s = min((one.rests_until - now for one in self.members if one.rests_until > now), default=math.inf)
            left_s = until - now
            is_over = claim is not None and claim.is_declined and all(one.cost is not None for one in self.members)
            if is_over or left_s <= 0 or (ends_s >= left_s and FULL not in self.states.values()):
                break
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            line(Waiting(called, claim))
            line = self.waiting.appendleft
            try:
                await asyncio.wait({called}, timeout=min(left_s, ends_s))
            except asyncio.CancelledError:
                if called.done():
                    self._call_next()
                raise
            finally:
                called.cancel()
            was_called = not called.cancelled()
        if was_called:
            self._call_next()
        if claim is not None and claim.refused:
            raise OverBudget("the budget does not allow a call for this image")
        raise Stage2Error(f"no server can be asked: {', '.join(f'{n} is {s}' for n, s in self.states.items())}")

    def _call_next(self, member: Member | None = None) -> None:
        """Call who waits the longest; past those whom the budget keeps from the server in which there is a place.

        Where all servers cost something, these are called as well, to be told.
        """
        costs = all(one.cost is not None for one in self.members)
        for one in tuple(self.waiting):
            may_ask = member is None or one.may_ask(member)
            if one.called.done() or may_ask or costs:
                self.waiting.remove(one)
            if not one.called.done() and (may_ask or costs):
                one.called.set_result(None)
                if may_ask:
                    return

    async def _again(self, first: Member, error: RemoteError, until: float, claim: Claim | None) -> Chosen | None:
        """Who is asked after the first has computed nothing: another at once, or whoever is free after a pause."""
        if not (error.passing or error.lasting):
            return None
        if (other := self._free(first, claim)) is not None:
            return other
        pause_s = PAUSE_S if error.retry_after_s is None else error.retry_after_s
        if error.lasting or self._clock() + pause_s >= until:
            return None
        await asyncio.sleep(pause_s)
        return self._free(None, claim)

    def _free(self, passed: Member | None, claim: Claim | None) -> Chosen | None:
        now = self._clock()
        for member in in_order(self._ranks, now):
            if member is not passed and (chosen := self._chosen(member, claim, now)) is not None:
                return chosen
        return None

    def _chosen(self, member: Member, claim: Claim | None, now: float) -> Chosen | None:
        if not member.is_free(now) or member.breaker.state is State.OPEN:
            return None
        paid = None
        if claim is not None and member.cost is not None and (paid := claim.reserve(member.cost)) is None:
            return None
        if (call := member.breaker.admit()) is None:
            if paid is not None:
                paid.give_back()
            return None
        # Taken here and not when it is sent: of images that come together each sees the places of the others.
        member.in_flight += 1
        member.asked_at = now
        return Chosen(member, call, paid)

    async def _hedged(
        self, first: Chosen, delay_s: float, content: bytes, until: float, claim: Claim | None
    ) -> NamedProbability:
        """The verdict of the first server, or of a second one that is asked when the first takes long or fails."""
        attempts = [self._begun(first, content, until)]
        names = [first.member.client.name]
        hedged = False
        try:
            await asyncio.wait(attempts, timeout=delay_s)
            second = None
            if not attempts[0].done():
                second = self._free(first.member, claim) if self._hedge.allowed() else None
                if hedged := second is not None:
                    self._hedge.begin()
            elif isinstance(error := attempts[0].exception(), RemoteError):
                second = await self._again(first.member, error, until, claim)
            if second is not None:
                attempts.append(self._begun(second, content, until))
                names.append(second.member.client.name)
            running = set(attempts)
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if winner := next((one for one in attempts if one in done and one.exception() is None), None):
                    self._hedge.won += hedged and winner is not attempts[0]
                    return winner.result()
            error = attempts[-1].exception()
            assert error is not None
            raise failure(names[-1], error) from error
        finally:
            for one in attempts:
                one.cancel()

    def _begun(self, chosen: Chosen, content: bytes, until: float) -> asyncio.Task[NamedProbability]:
        task = asyncio.ensure_future(self._attempt(chosen, content, until))

        def ended(done: asyncio.Task[NamedProbability]) -> None:
            # A task that is cancelled before its first step has done nothing, and cleans up nothing.
            if not chosen.is_begun:
                self._leave(chosen, failed=None, is_sent=False)
            # Fetched, so that the failure of one that nobody waits for any more does not reach the loop's handler.
            if not done.cancelled():
                done.exception()

        task.add_done_callback(ended)
        return task

    async def _attempt(self, chosen: Chosen, content: bytes, until: float) -> NamedProbability:
        member, paid = chosen.member, chosen.paid
        chosen.is_begun = True
        began: float | None = None
        failed: bool | None = None
        is_sent = True
        try:
            if paid is not None and not await paid.is_written(until - self._clock()):
                raise OverBudget("what a call may cost could not be written down in time")
            if member.rate is not None:
                await member.rate.take(len(content), until)
            began = self._clock()
            found = await member.client.ask(content, until - began)
            failed = False
            now = self._clock()
            member.answered(now, now - began)
            self._hedge.answered(member.client.name, now - began)
            if paid is not None:
                paid.settle(found.tokens if isinstance(found, MeteredProbability) else None)
            return NamedProbability(found, member.client.name)
        except (Exception, asyncio.CancelledError) as error:
            now = self._clock()
            if began is not None:
                failed = blames_server(
                    error, given_s=until - began, took_s=now - began, since_s=now - member.answered_at
                )
            if isinstance(error, RemoteError) and error.retry_after_s is not None:
                member.rests_until = now + min(error.retry_after_s, LONGEST_REST_S)
            is_sent = began is not None and not was_not_sent(error)
            raise
        finally:
            self._leave(chosen, failed=failed, is_sent=is_sent)

    def _leave(self, chosen: Chosen, *, failed: bool | None, is_sent: bool) -> None:
        """Give the place back, tell the breaker how the call ended, and have one that was not sent cost nothing."""
        member = chosen.member
        if chosen.paid is not None and not is_sent:
            chosen.paid.give_back()
        member.in_flight -= 1
        self._call_next(member)
        before = member.breaker.state
        member.breaker.note(chosen.call, failed=failed)
        if (after := member.breaker.state) is not before:
            log.warning("stage2_server", server=member.client.name, state=after.value, before=before.value)

    async def _probe(self, member: Member) -> None:
        if not isinstance(member.client, Probed):
            return
        member.probed_at = self._clock()
        was_down, reason = member.is_down, ""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                await member.client.probe(PROBE_TIMEOUT_S)
            member.is_down = False
        except (EngineError, Stage2Error, TimeoutError) as error:
            # An answer that came meanwhile says more.
            member.is_down, reason = member.answered_at < member.probed_at, str(error) or "no reply"
        if member.is_down is not was_down:
            name, state = member.client.name, "down" if member.is_down else "there again"
            log.warning("stage2_server", server=name, state=state, reason=reason)

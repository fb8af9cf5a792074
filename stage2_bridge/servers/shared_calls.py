"""Images that wait while all calls to a server are under way share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from engines.errors import RemoteError
from stage1.errors import CascadeError

Item = TypeVar("Item")
Answer = float | CascadeError


@dataclass(frozen=True)
class _Waiting(Generic[Item]):
    item: Item
    until: float
    answer: asyncio.Future[float]


class SharedCalls(Generic[Item]):
    """Asks for one item alone where a call is free, and for all that wait together where one becomes free.

    Nobody waits for others to come: a call begins as soon as it may, so that a server that is not busy answers
    as fast as without sharing. A call ends early once nobody waits for it any more, and nobody waits longer than their
    own time.

    Args:
        call: answers several items within so many seconds, each with a number or with what is wrong with it; what it
            raises is the answer to all of them.
        calls: at a time.
        most: items of one call.
    """

    def __init__(
        self, call: Callable[[Sequence[Item], float], Awaitable[Sequence[Answer]]], *, calls: int, most: int
    ) -> None:
        self._call = call
        self._calls = calls
        self._most = most
        self._waiting: deque[_Waiting[Item]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the number of tasks: one that has found nobody waiting is in there a little longer.
        self._at_work = 0

    async def ask(self, item: Item, timeout_s: float) -> float:
        """The answer to one item.

        Args:
            item: it.
            timeout_s: time after which nobody waits for it any more.

        Raises:
            RemoteError: the time was over.
            CascadeError: what the call said of it.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(item, loop.time() + timeout_s, loop.create_future())
        self._waiting.append(one)
        if self._at_work < self._calls:
            self._at_work += 1
            task = asyncio.ensure_future(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            async with asyncio.timeout(timeout_s):
                return await one.answer
        except TimeoutError as error:
            raise RemoteError(f"no reply within {timeout_s:.2g} s", timed_out=True) from error
        finally:
            one.answer.cancel()

    async def close(self) -> None:
        """End the calls that are under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        """Calls, one after the other, until nobody waits."""
        try:
            while together := self._next():
                await self._one_call(together)
        finally:
            self._at_work -= 1

    async def _one_call(self, together: Sequence[_Waiting[Item]]) -> None:
        left_s = max(one.until for one in together) - asyncio.get_running_loop().time()
        call = asyncio.ensure_future(self._answered(together, left_s))
        left = len(together)

        def gone(_: object, call: asyncio.Task[None] = call) -> None:
            nonlocal left
            left -= 1
            if not left:
                call.cancel()

        for one in together:
            one.answer.add_done_callback(gone)
        try:
            await asyncio.wait({call})
        finally:
            call.cancel()

    def _next(self) -> list[_Waiting[Item]]:
        """Those that wait and have time, in the order in which they came; at most as many as a call may have."""
        now = asyncio.get_running_loop().time()
        found: list[_Waiting[Item]] = []
        while self._waiting and len(found) < self._most:
            one = self._waiting.popleft()
            if not one.answer.done() and one.until > now:
                found.append(one)
        return found

    async def _answered(self, together: Sequence[_Waiting[Item]], timeout_s: float) -> None:
        answers: Sequence[Answer]
        try:
            answers = await self._call([one.item for one in together], timeout_s)
        except CascadeError as error:
            answers = [error] * len(together)
        except Exception as error:  # noqa: BLE001  whoever waits is told, and the others go on
            for one in together:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        for one, answer in zip(together, answers, strict=True):
            if one.answer.done():
                continue
            if isinstance(answer, CascadeError):
                one.answer.set_exception(answer)
            else:
                one.answer.set_result(answer)

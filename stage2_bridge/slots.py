"""Slots for hand-offs, and the short queue before them."""

from __future__ import annotations

import asyncio
import heapq


class Slots:
    """So many hand-offs at a time; others wait, and whose turn is earliest goes first.

    Args:
        most: hand-offs at a time.
        most_waiting: how many wait.
    """

    def __init__(self, most: int, most_waiting: int) -> None:
        self._most = most
        self._most_waiting = most_waiting
        self._taken = 0
        self._arrived = 0
        self._waiting = 0
        # Whoever gave up waiting stays in it until it is its turn.
        self._queue: list[tuple[float, int, asyncio.Future[None]]] = []

    @property
    def most(self) -> int:
        """Hand-offs at a time."""
        return self._most

    @property
    def taken(self) -> int:
        """Hand-offs under way."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait for one of them to end."""
        return self._waiting

    def resize(self, most: int, most_waiting: int) -> None:
        """Have other bounds from now on; who is beyond them already stays.

        Args:
            most: hand-offs at a time.
            most_waiting: how many wait.
        """
        self._most, self._most_waiting = most, most_waiting
        while self._taken < self._most and self._call_next():
            self._taken += 1

    async def take(self, turn: float, patience_s: float) -> bool:
        """Wait for a slot.

        Args:
            turn: on any clock; the smaller goes first, and of equals who came first.
            patience_s: how long to wait, in seconds.

        Returns:
            Whether there was one in time; it has to be given back.
        """
        if self._taken < self._most:
            self._taken += 1
            return True
        if self._waiting >= self._most_waiting or patience_s <= 0:
            return False
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrived += 1
        heapq.heappush(self._queue, (turn, self._arrived, called))
        self._waiting += 1
        try:
            await asyncio.wait({called}, timeout=patience_s)
        except asyncio.CancelledError:
            if called.done():
                self.give_back()
            raise
        finally:
            self._waiting -= 1
            if not called.done():
                called.cancel()
                self._forget_who_left()
        return not called.cancelled()

    def _forget_who_left(self) -> None:
        if len(self._queue) > 2 * self._waiting + 16:
            self._queue = [one for one in self._queue if not one[2].done()]
            heapq.heapify(self._queue)

    def give_back(self) -> None:
        """A hand-off has ended; the next one may begin."""
        if self._taken > self._most or not self._call_next():
            self._taken -= 1

    def _call_next(self) -> bool:
        """Hand a slot to who waits for one; whether anybody does."""
        while self._queue:
            *_, called = heapq.heappop(self._queue)
            if not called.done():
                called.set_result(None)
                return True
        return False

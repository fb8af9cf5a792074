"""Whose image is decoded next: callers take turns, so that the costly images of one do not hold up the others."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass

from miner.holdings import Holdings


@dataclass(eq=False)
class _Waiting:
    hotkey: str
    priority: float
    turn: asyncio.Future[None]


class Turns:
    """So many at a time, and of one caller one fewer where there are several.

    Next is who has the fewest at work; of these, who has the largest stake; of these, who came first.

    Args:
        most: how many at a time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_of_one = max(1, most - 1)
        self._working = Holdings()
        self._waiting: list[_Waiting] = []
        self._lock = threading.Lock()

    async def begin(self, hotkey: str, priority: float) -> None:
        """Wait for a turn; whoever got one has to end it.

        Args:
            hotkey: whose it is.
            priority: share of the largest stake, in [0, 1].
        """
        loop = asyncio.get_running_loop()
        mine = _Waiting(hotkey, priority, loop.create_future())
        with self._lock:
            self._waiting.append(mine)
            chosen = self._choose()
        self._call(chosen)
        try:
            await mine.turn
        except asyncio.CancelledError:
            with self._lock:
                waiting = mine in self._waiting
                if waiting:
                    self._waiting.remove(mine)
            if not waiting:
                self.end(hotkey)
            raise

    def end(self, hotkey: str) -> None:
        """A turn of this caller is over; from any thread."""
        with self._lock:
            self._working.add(hotkey, -1)
            chosen = self._choose()
        if chosen:
            # A loop that has ended waits for nothing.
            with contextlib.suppress(RuntimeError):
                chosen[0].turn.get_loop().call_soon_threadsafe(self._call, chosen)

    def _choose(self) -> list[_Waiting]:
        """Take out those whose turn it is."""
        found = []
        while self._waiting and self._working.total < self._most:
            able = [one for one in self._waiting if self._working.of(one.hotkey) < self._most_of_one]
            if not able:
                break
            chosen = min(able, key=lambda one: (self._working.of(one.hotkey), -one.priority))
            self._waiting.remove(chosen)
            self._working.add(chosen.hotkey, 1)
            found.append(chosen)
        return found

    @staticmethod
    def _call(chosen: list[_Waiting]) -> None:
        for one in chosen:
            # One that was cancelled meanwhile ends its turn itself.
            if not one.turn.done():
                one.turn.set_result(None)

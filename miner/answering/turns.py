"""Whose image is decoded next: callers take turns, so that the costly images of one do not hold up the others."""

from __future__ import annotations

import asyncio
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

    async def begin(self, hotkey: str, priority: float) -> None:
        """Wait for a turn; whoever got one has to end it.

        Args:
            hotkey: whose it is.
            priority: share of the largest stake, in [0, 1].
        """
        mine = _Waiting(hotkey, priority, asyncio.get_running_loop().create_future())
        self._waiting.append(mine)
        self._call()
        try:
            await mine.turn
        except asyncio.CancelledError:
            if not mine.turn.cancelled():
                self.end(hotkey)
            elif mine in self._waiting:
                self._waiting.remove(mine)
            raise

    def end(self, hotkey: str) -> None:
        """A turn of this caller is over."""
        self._working.add(hotkey, -1)
        self._call()

    def _call(self) -> None:
        while self._waiting and self._working.total < self._most:
            able = [one for one in self._waiting if self._working.of(one.hotkey) < self._most_of_one]
            if not able:
                return
            chosen = min(able, key=lambda one: (self._working.of(one.hotkey), -one.priority))
            self._waiting.remove(chosen)
            # One that was cancelled a moment ago has not been told yet.
            if not chosen.turn.done():
                self._working.add(chosen.hotkey, 1)
                chosen.turn.set_result(None)

"""Whose image is decoded next: callers take turns, so that the costly images of one do not hold up the others."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


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
        self._working: dict[str, int] = {}
        self._all = 0
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
            if mine in self._waiting:
                self._waiting.remove(mine)
            else:
                self.end(hotkey)
            raise

    def _at_work(self, waiting: _Waiting) -> int:
        return self._working.get(waiting.hotkey, 0)

    def end(self, hotkey: str) -> None:
        """A turn of this caller is over."""
        self._all -= 1
        self._working[hotkey] -= 1
        if not self._working[hotkey]:
            del self._working[hotkey]
        self._call()

    def _call(self) -> None:
        while self._waiting and self._all < self._most:
            able = [one for one in self._waiting if self._at_work(one) < self._most_of_one]
            if not able:
                return
            chosen = min(able, key=lambda one: (self._at_work(one), -one.priority))
            self._waiting.remove(chosen)
            self._all += 1
            self._working[chosen.hotkey] = self._at_work(chosen) + 1
            chosen.turn.set_result(None)

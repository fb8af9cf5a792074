"""Places for requests that are read and answered at one time, shared out among callers by stake.

While there are places, everybody may have them, up to half of all. Once there are none, whoever holds more than the
newcomer would, each measured by its weight, gives one back: a request whose body is still coming, the one that has
taken longest. A caller that sends headers and no bodies therefore loses its places to those that ask.

A request that is proved only with its body is on the account of the address that sends it until then. It gives its
place to any that is proved, and takes none from such a one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from miner.holdings import Holdings

# Weight of a caller without stake; one with the largest has 1 more.
LEAST_WEIGHT = 0.25
# Every caller may have so many, however few there are in all.
FEW = 8


@dataclass(slots=True, eq=False)
class Place:
    """One request's place.

    Attributes:
        holder: on whose account it is: a hotkey, or the address of a request that is not proved.
        priority: of the caller, in [0, 1].
        give_up: ends the request while its body is being read.
        reading: whether its body is still being read.
        proved: whether its caller is.
    """

    holder: str
    priority: float
    give_up: Callable[[], None]
    reading: bool = True
    proved: bool = True


class Places:
    """So many requests at one time.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self.limit(most)
        self._taken: dict[Place, None] = {}
        self._held = Holdings()

    def limit(self, most: int) -> None:
        """From here on so many; requests that have a place keep it."""
        self._most, self._most_of_one = most, max(FEW, most // 2)

    def __len__(self) -> int:
        """How many are taken."""
        return len(self._taken)

    def take(self, place: Place) -> bool:
        """Give a request a place; False if there is none that it may have."""
        if self._held.of(place.holder) >= self._most_of_one:
            return False
        if len(self._taken) >= self._most and not self._make_room(place):
            return False
        self._taken[place] = None
        self._held.add(place.holder, 1)
        return True

    def hand_over(self, place: Place, holder: str, priority: float) -> bool:
        """Put a place on the account of its proved caller; False if that one has as many as it may.

        Args:
            place: one that is taken.
            holder: the hotkey.
            priority: of the caller, in [0, 1].
        """
        if place in self._taken:
            if self._held.of(holder) >= self._most_of_one:
                return False
            self._held.add(place.holder, -1)
            self._held.add(holder, 1)
        place.holder, place.priority, place.proved = holder, priority, True
        return True

    def free(self, place: Place) -> None:
        """Take a place back; one that was given up for another request is taken back already."""
        if place not in self._taken:
            return
        del self._taken[place]
        self._held.add(place.holder, -1)

    def _make_room(self, newcomer: Place) -> bool:
        wanted = _load(self._held.of(newcomer.holder) + 1, newcomer.priority)
        # In order of arrival, so that of equals the one that has taken longest goes.
        slow = [place for place in self._taken if place.reading]
        unproved = [place for place in slow if not place.proved]
        if not newcomer.proved or unproved:
            slow = unproved
        if not slow:
            return False
        most = max(slow, key=lambda place: _load(self._held.of(place.holder), place.priority))
        outranked = newcomer.proved and not most.proved
        if not outranked and _load(self._held.of(most.holder), most.priority) <= wanted:
            return False
        self.free(most)
        most.give_up()
        return True


class Capacity:
    """What the requests of all axons of one process may hold together.

    Args:
        most_in_flight: requests that are being read or answered at one time.
    """

    def __init__(self, most_in_flight: int) -> None:
        self.places = Places(most_in_flight)
        # Bytes of bodies in flight: all, and those of callers that are not proved.
        self.buffered, self.unproved = Holdings(), Holdings()


def _load(held: int, priority: float) -> float:
    return held / (LEAST_WEIGHT + priority)

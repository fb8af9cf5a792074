"""Which pictures are of one place: only the first exit of a place may be audited.

Frames of one place are missed together. Auditing all of them would let one bad place look like a change of the world:
with twenty frames a place up to a fifth of the streams would raise a false alarm at a level of a hundredth.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

DAY_S, WINDOW_S = 86_400.0, 600.0
# About a hundred metres.
CELL_DEGREES = 0.001
NEAR_BITS = 10


@dataclass(frozen=True, slots=True)
class Sight:
    """What tells where a picture was taken.

    Attributes:
        at: when it came, seconds since 1970.
        sender: who sent it.
        picture: its perceptual hash of 64 bits, None if it is blank.
        position: latitude and longitude in degrees, None where it is not known.
    """

    at: float
    sender: str
    picture: int | None = None
    position: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Visit:
    """What a picture is to its place.

    Attributes:
        site: number of the place.
        first: no picture of the place came before.
        first_exit: it exits, and no picture of the place has exited before.
    """

    site: int
    first: bool
    first_exit: bool


class SiteBookState(BaseModel):
    """What a book remembers; see `SiteBook`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    next_site: int = 1
    pictures: tuple[tuple[int, float, int], ...] = ()
    names: tuple[tuple[str, float, int], ...] = ()
    exited: tuple[int, ...] = ()


class SiteBook:
    """Places of the last day.

    A picture is of a place that is known if it looks like one of that place. If not, its place is that of its position
    and day; without a position, that of its sender in these ten minutes.

    Args:
        most: pictures that are remembered; the oldest are forgotten first.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._most = most
        self._hashes: NDArray[np.uint64] = np.zeros(most, np.uint64)
        self._times: NDArray[np.float64] = np.full(most, -np.inf)
        self._sites: NDArray[np.int64] = np.zeros(most, np.int64)
        self._next_place = 0
        self._filled = 0
        self._names: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._exited: OrderedDict[int, None] = OrderedDict()
        self._next_site = 1

    def visit(self, sight: Sight, *, exits: bool) -> Visit:
        """Take note of a picture.

        Args:
            sight: where it is from.
            exits: whether it was answered by Stage-1.
        """
        name = place_name(sight)
        known = self._alike(sight)
        if known is None and (named := self._names.get(name)) is not None:
            known = named[1]
        site = known
        if site is None:
            site, self._next_site = self._next_site, self._next_site + 1
        self._remember(sight, name, site)
        first_exit = exits and site not in self._exited
        if first_exit:
            self._exited[site] = None
            if len(self._exited) > self._most:
                self._exited.popitem(last=False)
        return Visit(site, known is None, first_exit)

    @property
    def state(self) -> SiteBookState:
        """What it remembers."""
        order = np.argsort(self._times[: self._filled], kind="stable")
        pictures = zip(
            self._hashes[order].tolist(), self._times[order].tolist(), self._sites[order].tolist(), strict=True
        )
        names = ((name, at, site) for name, (at, site) in self._names.items())
        return SiteBookState(
            next_site=self._next_site, pictures=tuple(pictures), names=tuple(names), exited=tuple(self._exited)
        )

    @classmethod
    def restored(cls, state: SiteBookState, most: int = 20_000) -> SiteBook:
        """A book that remembers what another did."""
        book = cls(most)
        for picture, at, site in state.pictures[-most:]:
            book._store(picture, at, site)
        book._names.update((name, (at, site)) for name, at, site in state.names)
        book._exited.update((site, None) for site in state.exited)
        book._next_site = state.next_site
        return book

    def _alike(self, sight: Sight) -> int | None:
        """The place of the most similar picture of the last day, if one is similar enough."""
        if sight.picture is None or not self._filled:
            return None
        bits = np.bitwise_count(self._hashes[: self._filled] ^ np.uint64(sight.picture))
        near = int(bits.argmin())
        if bits[near] <= NEAR_BITS and sight.at - self._times[near] <= DAY_S:
            return int(self._sites[near])
        # The most similar one may be of the day before, and another one not.
        recent = np.flatnonzero((bits <= NEAR_BITS) & (sight.at - self._times[: self._filled] <= DAY_S))
        return int(self._sites[recent[bits[recent].argmin()]]) if len(recent) else None

    def _remember(self, sight: Sight, name: str, site: int) -> None:
        if sight.picture is not None:
            self._store(sight.picture, sight.at, site)
        self._names.setdefault(name, (sight.at, site))
        while self._names:
            at, _ = next(iter(self._names.values()))
            if len(self._names) <= self._most and sight.at - at <= 2 * DAY_S:
                break
            self._names.popitem(last=False)

    def _store(self, picture: int, at: float, site: int) -> None:
        place = self._next_place
        self._hashes[place], self._times[place], self._sites[place] = picture, at, site
        self._next_place = (place + 1) % self._most
        self._filled = max(self._filled, place + 1)


def place_name(sight: Sight) -> str:
    """What a picture that looks like no other is placed by: position and day, or sender and ten minutes."""
    if sight.position is None:
        return f"{sight.sender}@{int(sight.at // WINDOW_S)}"
    cell = "/".join(str(int(degrees // CELL_DEGREES)) for degrees in sight.position)
    return f"{cell}@{int(sight.at // DAY_S)}"

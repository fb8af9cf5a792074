"""Which requests were seen before."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from miner.axon.authenticator import NS_PER_S, SignedRequest
from miner.axon.refusals import Unauthenticated
from miner.axon.settings import WireSettings


class NonceBook:
    """Remembers which verified requests were seen, so that none counts twice.

    Concurrent requests of one dendrite arrive out of order, so every nonce of the window is remembered and not only
    the latest. When a hotkey has more of them than fit, the oldest is forgotten and everything up to it is refused
    from then on: memory stays bounded and no replay ever passes. Only verified requests may be recorded; otherwise a
    stranger could lock a validator out.

    Args:
        settings: the window and the bound.
        age_s: for how long it has been remembering, in seconds; older nonces are refused, because nobody knows which of
            them were seen. By a clock that never goes back: the wall clock may be set right after the start.
    """

    def __init__(self, settings: WireSettings, age_s: Callable[[], float] = lambda: math.inf) -> None:
        self._settings = settings
        self._age_s = age_s
        self._pages: dict[str, _Page] = {}
        self._next_sweep_ns = 0

    def record(self, request: SignedRequest, now_ns: int) -> None:
        """Remember a verified request.

        Args:
            request: a request that `verify` accepted.
            now_ns: our clock, nanoseconds since 1970.

        Raises:
            Unauthenticated: it was seen before, or is older than what was forgotten.
        """
        if now_ns - request.nonce_ns > self._age_s() * NS_PER_S:
            raise Unauthenticated("Nonce is older than this miner's process", "nonce_before_start")
        horizon_ns = now_ns - int(self._settings.oldest_s * NS_PER_S)
        self._sweep(horizon_ns, now_ns)
        page = self._pages.setdefault(request.sender, _Page())
        page.forget_until(horizon_ns)
        if not page.add(request.nonce_ns, request.uuid):
            raise Unauthenticated("Nonce was already used, or is older than those still remembered", "replay")
        while len(page) > self._settings.nonces_per_hotkey:
            page.forget_oldest()

    def __len__(self) -> int:
        """How many nonces are remembered, of all hotkeys."""
        return sum(len(page) for page in self._pages.values())

    def _sweep(self, horizon_ns: int, now_ns: int) -> None:
        # A hotkey that fell silent would otherwise keep its page for ever. It keeps it for one window more than needed:
        # should our clock be set back a little, what was seen is still remembered.
        if now_ns < self._next_sweep_ns:
            return
        window_ns = now_ns - horizon_ns
        self._next_sweep_ns = now_ns + window_ns
        silent = [hotkey for hotkey, page in self._pages.items() if page.newest_ns < horizon_ns - window_ns]
        for hotkey in silent:
            del self._pages[hotkey]


@dataclass(slots=True)
class _Page:
    """The nonces of one hotkey, smallest first, and the floor below which everything is refused."""

    seen: set[tuple[int, str]] = field(default_factory=set)
    order: list[tuple[int, str]] = field(default_factory=list)
    floor_ns: int = -1
    newest_ns: int = -1

    def __len__(self) -> int:
        return len(self.order)

    def add(self, nonce_ns: int, uuid: str) -> bool:
        entry = (nonce_ns, uuid)
        if nonce_ns <= self.floor_ns or entry in self.seen:
            return False
        self.seen.add(entry)
        heapq.heappush(self.order, entry)
        self.newest_ns = max(self.newest_ns, nonce_ns)
        return True

    def forget_oldest(self) -> None:
        entry = heapq.heappop(self.order)
        self.seen.discard(entry)
        self.floor_ns = entry[0]

    def forget_until(self, horizon_ns: int) -> None:
        while self.order and self.order[0][0] < horizon_ns:
            self.forget_oldest()

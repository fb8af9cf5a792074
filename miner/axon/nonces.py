"""Which requests were seen before."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from miner.axon.authenticator import NS_PER_S
from miner.axon.refusals import Unauthenticated

SEEN = "Nonce was already used, or is older than those still remembered"


class NonceBook:
    """Remembers which verified requests were seen, so that none counts twice.

    Concurrent requests of one dendrite arrive out of order, so every nonce of the window is remembered and not only
    the latest. When a hotkey has more of them than fit, the oldest is forgotten and everything up to it is refused
    from then on: memory stays bounded and no replay ever passes. Only verified requests may be recorded; otherwise a
    stranger could lock a validator out.

    Args:
        retention_s: how long a nonce is remembered, in seconds.
        most: nonces that are remembered of one hotkey.
    """

    def __init__(self, retention_s: float, most: int) -> None:
        self._retention_ns = int(retention_s * NS_PER_S)
        self._most = most
        self._pages: dict[str, _Page] = {}
        self._next_sweep_ns = 0

    def has(self, sender: str, nonce_ns: int, uuid: str) -> bool:
        """Whether `record` would refuse this nonce.

        Args:
            sender: ss58 address of the hotkey that signed.
            nonce_ns: nanoseconds since 1970.
            uuid: tells the nonces of several senders with one hotkey apart.
        """
        page = self._pages.get(sender)
        return page is not None and page.refuses(nonce_ns, uuid)

    def record(self, sender: str, nonce_ns: int, uuid: str, now_ns: int) -> None:
        """Remember a verified request.

        Args:
            sender: ss58 address of the hotkey that signed.
            nonce_ns: its nonce, nanoseconds since 1970.
            uuid: tells the nonces of several senders with one hotkey apart.
            now_ns: our clock, nanoseconds since 1970.

        Raises:
            Unauthenticated: it was seen before, or is older than what was forgotten.
        """
        horizon_ns = now_ns - self._retention_ns
        self._sweep(horizon_ns, now_ns)
        page = self._pages.setdefault(sender, _Page())
        page.forget_until(horizon_ns)
        if page.refuses(nonce_ns, uuid):
            raise Unauthenticated(SEEN, "replay")
        page.add(nonce_ns, uuid)
        while len(page) > self._most:
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

    def refuses(self, nonce_ns: int, uuid: str) -> bool:
        return nonce_ns <= self.floor_ns or (nonce_ns, uuid) in self.seen

    def add(self, nonce_ns: int, uuid: str) -> None:
        entry = (nonce_ns, uuid)
        self.seen.add(entry)
        heapq.heappush(self.order, entry)
        self.newest_ns = max(self.newest_ns, nonce_ns)

    def forget_oldest(self) -> None:
        entry = heapq.heappop(self.order)
        self.seen.discard(entry)
        self.floor_ns = entry[0]

    def forget_until(self, horizon_ns: int) -> None:
        while self.order and self.order[0][0] < horizon_ns:
            self.forget_oldest()

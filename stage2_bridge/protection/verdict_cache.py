"""Verdicts on images that came a short while ago, by the hash of their bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from stage2_bridge.protection.settings import CacheSettings


class KeptVerdict(NamedTuple):
    """A verdict that is used again.

    Attributes:
        probability: of roadwork, in [0, 1].
        server: that gave it.
    """

    probability: float
    server: str


class VerdictCache:
    """Keeps the latest verdicts for a while; bounded in number. Failures are not put into it.

    Args:
        settings: how long, and how many.
        clock: monotonic time in seconds.
    """

    def __init__(self, settings: CacheSettings, clock: Callable[[], float]) -> None:
        self._window_s, self._most = settings.window_s, settings.entries
        self._clock = clock
        # The oldest first.
        self._kept: OrderedDict[str, tuple[float, KeptVerdict]] = OrderedDict()

    def __len__(self) -> int:
        """How many are kept, those that are too old for use among them."""
        return len(self._kept)

    def get(self, key: str) -> KeptVerdict | None:
        """The verdict on an image; None if there is none that is young enough.

        Args:
            key: hash of its bytes.
        """
        at, kept = self._kept.get(key, (float("-inf"), None))
        return kept if self._clock() - at < self._window_s else None

    def put(self, key: str, verdict: KeptVerdict) -> None:
        """Keep a verdict."""
        now = self._clock()
        self._kept.pop(key, None)
        self._kept[key] = (now, verdict)
        while len(self._kept) > self._most or now - next(iter(self._kept.values()))[0] >= self._window_s:
            self._kept.popitem(last=False)

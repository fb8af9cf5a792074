"""When a second server is asked beside the first.

Reference:
    Dean and Barroso (2013), The Tail at Scale, Communications of the ACM 56(2), section Hedged requests.
"""

from __future__ import annotations

from stage2_bridge.protection.recent_times import RecentTimes
from stage2_bridge.protection.settings import HedgeSettings

# Hedges that may come at once after a time without any.
MOST_CREDIT = 5.0


class Hedge:
    """Says how long the first server is waited for alone, and for how many hand-offs at most a second one is asked.

    The times are those of all servers together: one that is always slow has no usual time of its own that would help.
    A part of the hand-offs bounds what hedges add to the load where all servers have become slow.

    Args:
        settings: of it.

    Attributes:
        begun: how often a second server was asked.
        won: how often it answered first.
    """

    def __init__(self, settings: HedgeSettings) -> None:
        self._settings = settings
        self._times = RecentTimes()
        self._credit = MOST_CREDIT
        self.begun = 0
        self.won = 0

    def delay_s(self) -> float | None:
        """A hand-off begins: how long to wait for the first server alone, in seconds; None for as long as it takes."""
        if not self._settings.enabled:
            return None
        self._credit = min(MOST_CREDIT, self._credit + self._settings.most_share)
        return self._times.quantile(self._settings.quantile)

    def allowed(self) -> bool:
        """Whether a second server may be asked, which counts as one if it is."""
        return self._credit >= 1

    def begin(self) -> None:
        """A second server is asked."""
        self._credit -= 1
        self.begun += 1

    def answered(self, seconds: float) -> None:
        """An attempt took so long for its answer."""
        if self._settings.enabled:
            self._times.add(seconds)

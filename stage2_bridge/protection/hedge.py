"""When a second server is asked beside the first.

Reference:
    Dean and Barroso (2013), The Tail at Scale, Communications of the ACM 56(2), section Hedged requests.
"""

from __future__ import annotations

from stage2_bridge.protection.latest_values import LatestValues
from stage2_bridge.protection.settings import HedgeSettings

# Hedges that may come at once after a time without any.
MOST_CREDIT = 5.0
# Answers of a server whose times are known, and without which its usual time is not.
KEPT, FEWEST = 256, 20


class Hedge:
    """Says how long the first server is waited for alone, and for how many hand-offs at most a second one is asked.

    The time is that in which the quickest of the servers usually answers: one that is slow, or has become so, has no
    usual time of its own that would help. A share of the hand-offs bounds what hedges add to the load where all have
    become slow.

    Args:
        settings: of it.

    Attributes:
        begun: how often a second server was asked.
        won: how often it answered first.
    """

    def __init__(self, settings: HedgeSettings) -> None:
        self._settings = settings
        self._times: dict[str, LatestValues] = {}
        self._credit = MOST_CREDIT
        self.begun = 0
        self.won = 0

    def delay_s(self) -> float | None:
        """A hand-off begins: how long to wait for the first server alone, in seconds; None for as long as it takes."""
        if not self._settings.enabled:
            return None
        self._credit = min(MOST_CREDIT, self._credit + self._settings.most_share)
        usual = (one.quantile(self._settings.quantile) for one in self._times.values())
        return min((time for time in usual if time is not None), default=None)

    def allowed(self) -> bool:
        """Whether a second server may be asked, which counts as one if it is."""
        return self._credit >= 1

    def begin(self) -> None:
        """A second server is asked."""
        self._credit -= 1
        self.begun += 1

    def answered(self, server: str, seconds: float) -> None:
        """A server took so long for its answer."""
        if self._settings.enabled:
            self._times.setdefault(server, LatestValues(KEPT, FEWEST)).add(seconds)

"""A circuit breaker: a server that fails is left alone for a while, and then tried with one request.

Reference:
    Nygard (2018), Release It!, second edition, section 5.2, Circuit breaker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from enum import StrEnum

WINDOW_S, FEWEST_CALLS, FAILED_SHARE = 10.0, 20, 0.5
OPEN_S = 5.0


class State(StrEnum):
    """What a breaker does with the next request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Opens when half of the last calls failed, and closes when one that is let through for trial did not.

    Args:
        clock: monotonic time in seconds.
        window_s: how long a call counts.
        fewest: calls in it before it may open.
        failed_share: of them, from which on it opens.
        open_s: how long it lets nothing through.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        window_s: float = WINDOW_S,
        fewest: int = FEWEST_CALLS,
        failed_share: float = FAILED_SHARE,
        open_s: float = OPEN_S,
    ) -> None:
        self._clock = clock
        self._window_s, self._fewest, self._failed_share, self._open_s = window_s, fewest, failed_share, open_s
        self._calls: deque[tuple[float, bool]] = deque()
        self._failed = 0
        self._opened_at = -math.inf
        self._open = False
        self._tried_at: float | None = None

    @property
    def state(self) -> State:
        """What it does with the next request."""
        if not self._open:
            return State.CLOSED
        return State.HALF_OPEN if self._clock() - self._opened_at >= self._open_s else State.OPEN

    def admits(self) -> bool:
        """Whether a request may go to the server; whoever is let through has to report by `note`."""
        if not self._open:
            return True
        now = self._clock()
        if now - self._opened_at < self._open_s:
            return False
        # One at a time; a trial that never reported, because its caller went away, does not keep it open for ever.
        if self._tried_at is not None and now - self._tried_at < self._open_s:
            return False
        self._tried_at = now
        return True

    def note(self, *, failed: bool) -> None:
        """Count what became of a request that was let through."""
        now = self._clock()
        if self._open:
            if self._tried_at is None:
                # It was let through before the breaker opened, and says nothing of the server as it is by now.
                return
            self._tried_at = None
            if failed:
                self._opened_at = now
            else:
                self._open = False
                self._forget()
            return
        self._calls.append((now, failed))
        self._failed += failed
        while self._calls[0][0] < now - self._window_s:
            self._failed -= self._calls.popleft()[1]
        if len(self._calls) >= self._fewest and self._failed >= self._failed_share * len(self._calls):
            self._open, self._opened_at, self._tried_at = True, now, None
            self._forget()

    def _forget(self) -> None:
        self._calls.clear()
        self._failed = 0

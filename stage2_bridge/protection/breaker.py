"""A circuit breaker: a server that fails is left alone for a while, and then tried with one request.

Reference:
    Nygard (2018), Release It!, second edition, section 5.2, Circuit breaker.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

WINDOW_S, FEWEST_CALLS, FAILED_SHARE = 10.0, 20, 0.5
OPEN_S = 5.0


class State(StrEnum):
    """What a breaker does with the next request."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@dataclass(frozen=True)
class Call:
    """A request that was let through.

    Attributes:
        period: counts how often the breaker had opened or closed by then.
        trial: whether the server is tried with it.
    """

    period: int
    trial: bool


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
        self._period = 0
        self._tried_at: float | None = None

    @property
    def state(self) -> State:
        """What it does with the next request."""
        if not self._open:
            return State.CLOSED
        return State.HALF_OPEN if self._clock() - self._opened_at >= self._open_s else State.OPEN

    def admit(self) -> Call | None:
        """Let a request through to the server, whose end has to be reported by `note`; None if it may not go there."""
        if not self._open:
            return Call(self._period, trial=False)
        now = self._clock()
        if now - self._opened_at < self._open_s:
            return None
        # One at a time; one that takes long does not keep the others away for ever.
        if self._tried_at is not None and now - self._tried_at < self._open_s:
            return None
        self._tried_at = now
        return Call(self._period, trial=True)

    def note(self, call: Call, *, failed: bool | None) -> None:
        """Count what became of a request.

        Args:
            call: as it was let through; one from before the breaker last opened or closed says nothing of the server
                as it is by now, and is passed over.
            failed: whether the server did; None where the request says nothing of it, and then another may try it.
        """
        if call.period != self._period:
            return
        now = self._clock()
        if call.trial:
            self._tried_at = None
            if failed:
                self._opened_at = now
            elif failed is not None:
                self._turn(is_open=False)
            return
        if failed is None:
            return
        self._calls.append((now, failed))
        self._failed += failed
        while self._calls[0][0] < now - self._window_s:
            self._failed -= self._calls.popleft()[1]
        if len(self._calls) >= self._fewest and self._failed >= self._failed_share * len(self._calls):
            self._opened_at = now
            self._turn(is_open=True)

    def _turn(self, *, is_open: bool) -> None:
        self._open, self._tried_at = is_open, None
        self._period += 1
        self._calls.clear()
        self._failed = 0

"""What should not happen and does, counted by reason and told at most once a minute each: nobody must fill a disk."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

EVERY_S = 60.0


class Tally:
    """Counts events of one kind, and warns of each reason when it first comes and then once a minute while it lasts.

    From any thread.

    Args:
        event: name of the warnings.
        clock: monotonic time in seconds.
        every_s: time between two warnings of one reason.
    """

    def __init__(
        self, event: str = "refused", *, clock: Callable[[], float] = time.monotonic, every_s: float = EVERY_S
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._event = event
        self._clock = clock
        self._every_s = every_s
        self._told_at: dict[str, float] = {}
        self._told: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, reason: str, message: str, *, error: BaseException | None = None, **example: object) -> None:
        """Count one.

        Args:
            reason: a word for the kind; there are few of them.
            message: what happened, for a person.
            error: one whose traceback belongs in the log.
            example: what is known of this one.
        """
        now = self._clock()
        with self._lock:
            self.counts[reason] += 1
            if now - self._told_at.get(reason, float("-inf")) < self._every_s:
                return
            self._told_at[reason] = now
            since = self.counts[reason] - self._told[reason]
            self._told[reason] = self.counts[reason]
        traceback = {} if error is None else {"exc_info": error}
        log.warning(self._event, reason=reason, times=since, example={"message": message, **example}, **traceback)

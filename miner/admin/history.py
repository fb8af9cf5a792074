"""The last 24 hours of a miner, a point a minute, for the status page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from miner.answering.record import RequestRecord
from stage1.decisions import Action

MINUTES = 24 * 60
# A minute with more answers is drawn from the first of them.
MOST_TIMES = 10_000


@dataclass
class _Minute:
    answers: int = 0
    exits: int = 0
    seen: int = 0
    degraded: int = 0
    times_s: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Point:
    """One minute.

    Attributes:
        at: its end, seconds since 1970.
        answers: how many were given.
        refused: how many requests and connections were refused.
        p50_s: median time of an answer, None without one.
        p99_s: time that one in a hundred is above.
        exits: share of the images that Stage-1 saw which exited, None if it saw none.
        degraded: share of the answers that was given without Stage-1 or Stage-2, None without one.
    """

    at: float
    answers: int
    refused: int
    p50_s: float | None
    p99_s: float | None
    exits: float | None
    degraded: float | None


class History:
    """An observer of answers that keeps a point for each minute.

    Args:
        refused: how many were refused since the start.
    """

    def __init__(self, refused: Callable[[], int]) -> None:
        self._refused = refused
        self._refused_before = refused()
        self._minute = _Minute()
        self._points: deque[Point] = deque(maxlen=MINUTES)

    def on_answer(self, record: RequestRecord) -> None:
        """See `miner.answering.record.Observer`."""
        if record.result == "abandoned":
            return
        minute = self._minute
        minute.answers += 1
        minute.seen += record.action is not None
        minute.exits += record.action is Action.EXIT
        minute.degraded += record.failure is not None
        if len(minute.times_s) < MOST_TIMES:
            minute.times_s.append(record.total_ms / 1e3)

    def close_minute(self, at: float) -> None:
        """Make a point of what came since the last one.

        Args:
            at: seconds since 1970.
        """
        minute, self._minute = self._minute, _Minute()
        refused, before = self._refused(), self._refused_before
        self._refused_before = refused
        times = sorted(minute.times_s)
        self._points.append(
            Point(
                at,
                minute.answers,
                refused - before,
                times[len(times) // 2] if times else None,
                times[int(0.99 * len(times))] if times else None,
                minute.exits / minute.seen if minute.seen else None,
                minute.degraded / minute.answers if minute.answers else None,
            )
        )

    def columns(self) -> dict[str, list[float | None]]:
        """A list for each attribute of the points, the oldest first."""
        names = Point.__dataclass_fields__
        return {name: [getattr(point, name) for point in self._points] for name in names}

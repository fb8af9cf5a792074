"""How slow a live miner is at this moment, in a file that other processes of the machine look at.

The file is written about once a second and never flushed: after a crash it is stale, and a stale one says nothing. Its
time is the monotonic clock, which all processes of a Linux machine share and no change of the wall clock moves.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

GAUGE = "live_load.json"
WINDOW_S = 15.0
STALE_S = 10.0
PERCENTILE = 0.99


class LoadReading(BaseModel):
    """`live_load.json`.

    Attributes:
        at_s: monotonic time of the machine.
        p99_ms: 99th percentile of the time that requests took here in the last 15 s; None if there were none.
        limit_ms: above which other work is to wait.
        requests: how many there were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    at_s: float
    p99_ms: float | None
    limit_ms: float
    requests: int

    @property
    def over(self) -> bool:
        """Whether other work is to wait."""
        return self.p99_ms is not None and self.p99_ms > self.limit_ms


class LoadGauge:
    """Keeps the times of the latest requests.

    Args:
        limit_ms: above which other work is to wait.
        clock: monotonic time in seconds.
    """

    def __init__(self, limit_ms: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit_ms = limit_ms
        self._clock = clock
        self._times: deque[tuple[float, float]] = deque()

    def add(self, took_ms: float) -> None:
        """A request took so long."""
        self._times.append((self._clock(), took_ms))
        self._forget()

    def reading(self) -> LoadReading:
        """What there is to say now."""
        self._forget()
        times = sorted(took for _, took in self._times)
        # The smallest time that is not exceeded by more than one request in a hundred.
        p99 = times[min(len(times) - 1, int(PERCENTILE * len(times)))] if times else None
        return LoadReading(at_s=self._clock(), p99_ms=p99, limit_ms=self._limit_ms, requests=len(times))

    def _forget(self) -> None:
        oldest = self._clock() - WINDOW_S
        while self._times and self._times[0][0] < oldest:
            self._times.popleft()


def write_reading(path: Path, reading: LoadReading) -> None:
    """Replace the file; a reader sees the old content or the new one.

    Raises:
        OSError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(reading.model_dump_json(), encoding="utf-8")
    partial.replace(path)


def read_reading(path: Path, clock: Callable[[], float] = time.monotonic) -> LoadReading | None:
    """What a miner says of its load; None if none does, or none has for 10 s.

    Args:
        path: of the file.
        clock: monotonic time of the machine in seconds.
    """
    with contextlib.suppress(OSError, ValidationError):
        reading = LoadReading.model_validate_json(path.read_bytes())
        # One from before a restart of the machine lies in the future.
        if 0 <= clock() - reading.at_s <= STALE_S:
            return reading
    return None

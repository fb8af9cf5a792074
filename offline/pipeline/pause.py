"""A night that shares its machine with a live miner: it waits at the border of a batch while the miner is slow.

Every stage tells its progress after each batch, so that is where it waits. Nothing of a result depends on it.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from engines.machine.load_gauge import read_reading
from offline.pipeline.progress import Progress

LOOK_S = 0.5
# At one border: a miner that is slow for another reason must not keep a night from ever ending.
LONGEST_S = 60.0
TELL_EVERY_S = 60.0

# Sleeps for so many seconds; True if a signal came meanwhile.
Sleep = Callable[[float], bool]


class Pause:
    """A `Progress` that hands everything on, and waits after a step while a miner is slow.

    Args:
        inner: told of everything.
        slow: whether the miner is slow at this moment.
        tell: told in words that it waits, once a minute at most.
        sleep: see `Sleep`.
        clock: monotonic time in seconds.
    """

    def __init__(
        self,
        inner: Progress,
        slow: Callable[[], bool],
        *,
        tell: Callable[[str], None],
        sleep: Sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner, self._slow, self._tell, self._sleep, self._clock = inner, slow, tell, sleep, clock
        self._looked_at = self._told_at = float("-inf")
        self._waited_s = 0.0

    @property
    def waited_s(self) -> float:
        """Seconds that it has waited in all."""
        return self._waited_s

    def stage(self, name: str, state: str) -> None:
        """See `Progress.stage`."""
        self._inner.stage(name, state)

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.step`; waits while the miner is slow, a minute at most."""
        self._inner.step(done, total, note)
        begun = self._clock()
        if begun - self._looked_at < LOOK_S:
            return
        if self._slow():
            self._say(begun)
            while self._clock() - begun < LONGEST_S:
                # Whoever is told to end does so at this very border.
                if self._sleep(LOOK_S) or not self._slow():
                    break
        self._looked_at = self._clock()
        self._waited_s += self._looked_at - begun

    def _say(self, now: float) -> None:
        if now - self._told_at >= TELL_EVERY_S:
            self._told_at = now
            so_far = f"it has waited {self._waited_s:.0f} s so far"
            self._tell(f"waits for the miner, whose requests take longer than its limit; {so_far}")


def slow_by(path: Path) -> Callable[[], bool]:
    """Whether the miner that writes a file of its load is slow; not where none writes it any more.

    Args:
        path: see `engines.machine.load_gauge`.
    """

    def slow() -> bool:
        reading = read_reading(path)
        return reading is not None and reading.over

    return slow


@contextmanager
def sleep_until_signal() -> Iterator[Sleep]:
    """Lend a `Sleep` to the main thread: `time.sleep` goes on sleeping after a handled signal."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def sleep(seconds: float) -> bool:
        came = bool(select.select([read], [], [], seconds)[0])
        with suppress(BlockingIOError):
            os.read(read, 4096)
        return came

    try:
        yield sleep
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)

"""A budget that is spent by processes which are killed at random moments, in time that runs faster.

Every call is written down by the process that makes it, after the budget has let it pass and before anything else, as
a request would be sent. Whoever reads that file afterwards counts what was really spent.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import time
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path

from engines.machine.disk.disk_thread import DiskThread
from stage2_bridge.protection.budget.budget import Budget
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.state_file import StateFile
from stage2_bridge.protection.settings import BudgetSettings

CALLS, STATE = "calls", "budget"
# Longest wait for what a call costs to be written down.
WRITTEN_S = 60.0


@dataclass(frozen=True)
class Kills:
    """What came of it.

    Attributes:
        calls: that were made.
        lives: processes that made at least one.
        seconds: of the time that ran faster.
        most: calls in any period.
        set_aside: calls that the budget knows of; those between a reservation and the kill are not made.
    """

    calls: int
    lives: int
    seconds: float
    most: int
    set_aside: float


class FastClock:
    """A clock that all processes share, and on which `speed` seconds go by in one.

    Args:
        began: wall-clock time at which it shows itself, in seconds since 1970.
        speed: how much faster it runs.

    Attributes:
        latest: what it showed when it was last read.
    """

    def __init__(self, began: float, speed: float) -> None:
        self._began, self._speed = began, speed
        self.latest = began

    def __call__(self) -> float:
        """The time."""
        self.latest = self._began + (time.time() - self._began) * self._speed
        return self.latest


def most_in_a_period(times: list[float], period_s: float) -> int:
    """The largest number of sorted times in any half-open period."""
    return max((bisect_left(times, at + period_s) - place for place, at in enumerate(times)), default=0)


def spend(directory: Path, settings: BudgetSettings, began: float, speed: float, at_a_time: int) -> None:
    """Call for as long as this process lives.

    Args:
        directory: holds the budget's state and what was called.
        settings: of the budget.
        began: see `FastClock`.
        speed: see `FastClock`.
        at_a_time: calls that wait together for a thread which writes, as in a miner; 0 to write without one.
    """
    clock, now = FastClock(began, speed), FastClock(began, speed)
    made = os.open(directory / CALLS, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    disk = DiskThread("budget") if at_a_time else None
    budget = Budget(settings, 1.0, StateFile(directory / STATE), clock=clock, now=now, disk=disk)

    async def call() -> None:
        while True:
            paid = budget.claim(None).reserve(Cost())
            # At this speed a task that waits for its turn on a processor would wait for minutes: the time is that by
            # which the budget decided, not that of this line.
            decided_at = clock.latest
            if paid is None:
                await asyncio.sleep(1e-4)
            elif await paid.is_written(WRITTEN_S):
                os.write(made, f"{os.getpid()} {decided_at!r}\n".encode())
            else:
                paid.give_back()

    async def calls() -> None:
        await asyncio.gather(*(call() for _ in range(max(1, at_a_time))))

    asyncio.run(calls())


def killed(
    directory: Path, settings: BudgetSettings, *, kills: int, speed: float, seed: int = 0, at_a_time: int = 0
) -> Kills:
    """Have so many processes spend one after the other, each killed by SIGKILL after up to a tenth of a second.

    Args:
        directory: an empty one.
        settings: of the budget, in calls.
        kills: how many.
        speed: how much faster time runs for them.
        seed: of the moments.
        at_a_time: see `spend`.
    """
    draw = random.Random(seed)
    context = multiprocessing.get_context("fork")
    began = time.time()
    for _ in range(kills):
        child = context.Process(target=spend, args=(directory, settings, began, speed, at_a_time))
        child.start()
        time.sleep(draw.uniform(0.0, 0.1))
        child.kill()
        child.join()
    lines = [line.split() for line in (directory / CALLS).read_text().splitlines()]
    times = sorted(float(at) for _, at in lines)
    clock = FastClock(began, speed)
    budget = Budget(settings, 1.0, StateFile(directory / STATE), clock=clock, now=clock)
    return Kills(
        calls=len(times),
        lives=len({process for process, _ in lines}),
        seconds=clock() - began,
        most=most_in_a_period(times, settings.period_s),
        set_aside=budget.status.spent,
    )

"""The budget of Stage-2: what a call may cost is set aside on disk before it is sent, and settled after it.

Where less comes back than the hand-offs would take, those with the least expected gain stay with Stage-1. What Stage-1
answers by itself is no hand-off, and no concern of this.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

import structlog

from engines.machine.background_tasks import is_over
from engines.machine.disk.disk_thread import DiskThread, said_yes
from engines.machine.tally import Tally
from stage2_bridge.client import BudgetStatus
from stage2_bridge.protection.budget.bucket import Demand, bucket
from stage2_bridge.protection.budget.cost import Cost
from stage2_bridge.protection.budget.gain_order import GainOrder, UncertaintyOrder
from stage2_bridge.protection.budget.state_file import BudgetState, StateFile
from stage2_bridge.protection.settings import BudgetSettings

log = structlog.get_logger(__name__)

# Of the newest settled call in what calls usually cost of what is set aside for them.
NEW_SHARE = 0.05
# A disk that took longer than that hangs.
PATIENCE_S = 1.0

T = TypeVar("T")


class Reservation:
    """What is set aside for one call, which may be sent once that is on disk. Who does nothing with it has spent it.

    Args:
        budget: it is taken from.
        cost: of the call.
        unit: of the cost.
        written: whether it is on disk; None where nothing had to be written. Others may wait for the same.
    """

    def __init__(self, budget: Budget, cost: Cost, unit: str, written: Future[bool] | None = None) -> None:
        self._budget, self._cost, self._unit = budget, cost, unit
        self._written = written

    async def is_written(self, wait_s: float) -> bool:
        """Whether it is on disk by then; a call that is not is not sent, and gives back what was set aside.

        Args:
            wait_s: the longest wait.
        """
        written = self._written
        return written is None or (await is_over(written, wait_s) and said_yes(written))

    def settle(self, tokens: int | None) -> None:
        """The call was answered.

        Args:
            tokens: that it took; None where that is not known.
        """
        self._budget.settle(self._cost.upper, self._cost.of(tokens), self._unit)

    def give_back(self) -> None:
        """The call was not sent."""
        self._budget.settle(self._cost.upper, 0.0, self._unit)


class Claim:
    """The right of one hand-off to be paid for, decided when a server that costs something could be asked.

    Attributes:
        refused: whether a call was refused.
    """

    def __init__(self, budget: Budget, probability: float | None) -> None:
        self._budget, self._probability = budget, probability
        self._admitted: bool | None = None
        self.refused = False

    def admits(self, cost: Cost) -> bool:
        """Whether the image is worth a call, which stays as it was decided first.

        Args:
            cost: of a call.
        """
        if self._admitted is None:
            self._admitted = self._budget.admits(self._probability, cost)
            self.refused = not self._admitted
        return self._admitted

    @property
    def is_declined(self) -> bool:
        """Whether it was decided that nothing is paid."""
        return self._admitted is False

    def reserve(self, cost: Cost) -> Reservation | None:
        """Set aside what a call may cost; None if it may not be sent.

        Args:
            cost: of the call.
        """
        found = self._budget.reserve(cost) if self.admits(cost) else None
        self.refused = found is None
        return found


class Budget:
    """What may be spent, and on what.

    Args:
        settings: of it; with a limit above 0.
        dearest: the most that one call costs, in its unit.
        file: holds its state; closed with it.
        disk: writes it, so that a disk that hangs keeps no request waiting; without it, whoever spends does.
        clock: monotonic time in seconds.
        now: wall-clock time in seconds since 1970, by which the time between two processes is known.
        order: what an answer is worth; by how uncertain Stage-1 is without it.

    Attributes:
        order: what an answer is worth.
    """

    def __init__(
        self,
        settings: BudgetSettings,
        dearest: float,
        file: StateFile,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        order: GainOrder | None = None,
        disk: DiskThread | None = None,
    ) -> None:
        self._settings = settings
        self._bucket = bucket(settings.limit, settings.period_s, settings.burst, dearest)
        self._file: StateFile | None = file
        self._disk = disk
        self._closed: Future[None] | None = None
        self._waits: _Waits | None = None
        self._clock, self._now = clock, now
        self.order: GainOrder = order or UncertaintyOrder()
        self._failed = Tally("budget_not_written", clock=clock)
        self._usual_share = 1.0
        self._lifted = False
        saved, whole = file.read()
        # In this order: time that goes by between the two wins nothing back, and not twice as much.
        known_at = now()
        self._at = clock()
        horizon_s = self._bucket.horizon_s
        if saved is None:
            self._level, self._spent = self._bucket.capacity if whole else 0.0, 0.0
            self._demand = Demand(horizon_s, 0.0, self._at)
        else:
            same = whole and saved.unit == settings.unit
            away_s = known_at - saved.at
            # Time that went by says nothing of a clock that was set, but more than the bucket holds never comes back.
            self._level = self._bucket.after(saved.level, away_s) if same else 0.0
            self._spent = saved.spent if saved.unit == settings.unit else 0.0
            self._demand = Demand(horizon_s, saved.demand if same else 0.0, self._at - max(0.0, away_s))
        self._write(to_disk=True)

    @property
    def status(self) -> BudgetStatus:
        """How it stands."""
        now = self._clock()
        level = self._bucket.after(self._level, now - self._at)
        share = self._bucket.affordable_share(level, self._demand.per_s(now))
        return BudgetStatus(
            unit=self._settings.unit,
            limit=self._settings.limit,
            period_s=self._settings.period_s,
            available=level,
            spent=self._spent,
            share=share,
            # An order may say that everything, or nothing, is worth it by an infinity, which is no JSON.
            least_gain=min(1.0, max(-1.0, self.order.threshold(share))),
        )

    def claim(self, probability: float | None) -> Claim:
        """A hand-off begins.

        Args:
            probability: Stage-1's calibrated probability of roadwork; None for one that is worth the most.
        """
        return Claim(self, probability)

    def admits(self, probability: float | None, cost: Cost) -> bool:
        """Whether an image is worth a call at the present traffic; counts it as a part of that.

        Args:
            probability: of roadwork, by Stage-1.
            cost: of a call.
        """
        if self._lifted:
            return True
        self._refill()
        self._demand.add(cost.upper * self._usual_share, self._at)
        share = self._bucket.affordable_share(self._level, self._demand.per_s(self._at))
        if probability is None:
            return True
        gain = self.order.gain(probability)
        return share > 0 and gain >= self.order.threshold(share)

    def reserve(self, cost: Cost) -> Reservation | None:
        """Set aside the most that a call may cost, also on disk; None if there is not so much.

        Args:
            cost: of the call.
        """
        if self._lifted:
            return Reservation(self, cost, "")
        self._refill()
        if self._file is None or self._level < cost.upper:
            return None
        if self._disk is not None and self._disk.hangs_s > PATIENCE_S:
            self._failed.add("not_written", "the disk hangs; nothing is spent that is not written down")
            return None
        self._level -= cost.upper
        self._spent += cost.upper
        written = self._write()
        if written.done() and not said_yes(written):
            self._level += cost.upper
            self._spent -= cost.upper
            return None
        return Reservation(self, cost, self._settings.unit, written)

    def settle(self, reserved: float, spent: float, unit: str) -> None:
        """A call has ended.

        Args:
            reserved: what was set aside for it.
            spent: what it cost.
            unit: of both.
        """
        if self._file is None or unit != self._settings.unit:
            return
        if spent > reserved:
            self._failed.add(
                "more_than_reserved", f"a call cost {spent:g} and {reserved:g} were set aside: raise most_tokens"
            )
        if reserved > 0:
            self._usual_share += NEW_SHARE * (min(1.0, spent / reserved) - self._usual_share)
        if spent == reserved:
            return
        self._refill()
        self._level = min(self._bucket.capacity, self._level + reserved - spent)
        self._spent += spent - reserved
        self._write()

    def change(self, settings: BudgetSettings, dearest: float) -> None:
        """Go on with another limit; what was spent stays spent. One of another unit begins with nothing left.

        Args:
            settings: with a limit above 0.
            dearest: the most that one call costs, in its unit.
        """
        self._refill()
        if settings.unit != self._settings.unit:
            self._level, self._spent = 0.0, 0.0
            self._demand.weight, self._usual_share = 0.0, 1.0
        self._settings = settings
        self._bucket = bucket(settings.limit, settings.period_s, settings.burst, dearest)
        rate = self._demand.per_s(self._at)
        self._demand = Demand(self._bucket.horizon_s, rate * self._bucket.horizon_s, self._at)
        self._level = min(self._level, self._bucket.capacity)
        self._write()

    def lift(self) -> None:
        """There is no budget any more: what is under way may cost whatever it does."""
        self._lifted = True
        self.close()

    def close(self) -> None:
        """Write down that all that was spent is known, and spend nothing more."""
        if self._file is None:
            return
        self._refill()
        self._write(closed=True, to_disk=True)
        self._closed = self._done(self._file.close)
        self._file = None

    async def closed(self, wait_s: float) -> None:
        """Close it, and wait until that is on disk.

        Args:
            wait_s: the longest wait.
        """
        self.close()
        if self._closed is not None:
            await is_over(self._closed, wait_s)

    def _refill(self) -> None:
        now = self._clock()
        self._level = self._bucket.after(self._level, now - self._at)
        self._at = now

    def _write(self, *, closed: bool = False, to_disk: bool = False) -> Future[bool]:
        assert self._file is not None
        state = BudgetState(
            unit=self._settings.unit,
            level=self._level,
            at=self._now(),
            spent=self._spent,
            demand=self._demand.weight_at(self._at),
            closed=closed,
        )
        return self._kept(self._file, state, to_disk)

    def _kept(self, file: StateFile, state: BudgetState, to_disk: bool) -> Future[bool]:
        """Have a state written, and none before it that waits: the latest has all that was set aside till then.

        So a slow disk is asked for no more than it does, however many calls there are.
        """
        waits = self._waits
        if waits is not None and waits.replace(state, to_disk):
            return waits.written
        waits = _Waits(state, to_disk)

        def write() -> bool:
            return self._written(file, *waits.take())

        waits.written = self._done(write)
        self._waits = waits
        return waits.written

    def _written(self, file: StateFile, state: BudgetState, to_disk: bool) -> bool:
        try:
            file.write(state, to_disk=to_disk)
        except OSError as error:
            self._failed.add("not_written", f"{error}; nothing is spent that is not written down")
            return False
        return True

    def _done(self, work: Callable[[], T]) -> Future[T]:
        """Done by the thread of the disk, or there and then where there is none."""
        if self._disk is not None:
            return self._disk.submit(work)
        done: Future[T] = Future()
        done.set_result(work())
        return done


class _Waits:
    """A state that waits for the disk, in whose place a later one may come until it is written.

    Args:
        state: to be written.
        to_disk: see `StateFile.write`.

    Attributes:
        written: whether what was here last is on disk.
    """

    def __init__(self, state: BudgetState, to_disk: bool) -> None:
        self.written: Future[bool] = Future()
        self._state, self._to_disk = state, to_disk
        self._is_taken = False
        self._lock = threading.Lock()

    def replace(self, state: BudgetState, to_disk: bool) -> bool:
        """Put a later state in its place; False where it is too late for that."""
        with self._lock:
            if self._is_taken:
                return False
            self._state, self._to_disk = state, self._to_disk or to_disk
            return True

    def take(self) -> tuple[BudgetState, bool]:
        """What is to be written; nothing takes its place any more."""
        with self._lock:
            self._is_taken = True
            return self._state, self._to_disk

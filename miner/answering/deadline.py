"""How the seconds that a caller waits are spent: one object that says all of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadline:
    """Times of one request, on the clock of `time.monotonic`, in seconds.

    Attributes:
        arrived: when it came; the order of those that wait for the same. A caller says itself how long it waits, and
            nobody signs that: a short wait must put it before nobody.
        stage2_until: until then Stage-2 may think; then the answer is Stage-1's.
        due: the answer should be out.
        cut: an answer that is overdue is given up: halfway through what is left, for it may still arrive in time.
    """

    arrived: float
    stage2_until: float
    due: float
    cut: float


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """How much of the time that a caller waits is for what.

    Attributes:
        deadline_s: an answer is due this long after its request arrived, or earlier:
        margin_s: this long before the caller stops waiting, but never before half of the time it waits.
        reserve_s: kept before an answer is due, to give one without Stage-2.
    """

    deadline_s: float
    margin_s: float
    reserve_s: float

    def deadline(self, arrived: float, waits_s: float) -> Deadline:
        """The times of a request.

        Args:
            arrived: when it came, on the clock of `time.monotonic`, in seconds.
            waits_s: how long its caller waits.
        """
        due_s = min(self.deadline_s, max(waits_s - self.margin_s, waits_s / 2))
        cut_s = due_s + min(self.margin_s, waits_s - due_s) / 2
        return Deadline(arrived, arrived + due_s - self.reserve_s, arrived + due_s, arrived + cut_s)

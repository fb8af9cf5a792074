"""The bands that a new bundle's first requests must lie in, with a stated rate of false alarms.

What is known of a bundle before it serves is its certificate: k of N units of val_calib exited. If the requests are
like those units and independent, the share p of them that exits lies inside the two Clopper-Pearson bounds of k of N,
and the number of exits among n requests is binomial. Three things are tested: too few exits, too many exits, and too
many requests that Stage-1 failed on and that got the fallback probability. Each gets a third of the rate of false
alarms; half of that pays for the bounds, half for the looks, evenly, so that by the union bound a bundle that is as its
certificate says is out of a band at any look with at most that probability. Whether Stage-2 answers what was handed on
says nothing of the bundle, and is only counted.

Requests need not be like val_calib: a stream that has changed moves every bundle. So where enough is known of the
bundle before, a band counts only if the new bundle also differs from that one, by Fisher's exact test at the same
level. The second condition can only make alarms rarer.

References:
    Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.
    Fisher (1935), The logic of inductive inference.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import comb

from stage1.certificate.risks import Rate
from stage1.certificate.statistics.binomial import lower_bound, p_value, upper_bound

# Requests of the bundle before with which a comparison is worth something.
ENOUGH_BEFORE = 50
TESTS = 3
# A machine fails now and then: this share of the requests says nothing against a bundle.
TOLERATED_FAILURES = 0.001
FIRST_LOOK = 10


@dataclass(frozen=True)
class Answered:
    """What is counted of one request.

    Attributes:
        failed: Stage-1 gave no answer, or none in time, and the fallback probability was answered.
        deferred: Stage-1 handed the image on, as its certificate has it.
        fell_back: the image was handed on, also out of caution, and Stage-2 was there and gave no answer.
    """

    failed: bool
    deferred: bool
    fell_back: bool


@dataclass(frozen=True)
class Counts:
    """Requests of one bundle.

    Attributes:
        requests: how many.
        failed: see `Answered`.
        deferred: see `Answered`.
        fell_back: see `Answered`.
    """

    requests: int = 0
    failed: int = 0
    deferred: int = 0
    fell_back: int = 0

    @classmethod
    def of(cls, answered: Iterable[Answered]) -> Counts:
        """Count them."""
        seen = list(answered)
        return cls(
            len(seen),
            sum(one.failed for one in seen),
            sum(one.deferred for one in seen),
            sum(one.fell_back for one in seen),
        )

    @property
    def seen(self) -> int:
        """Requests that Stage-1 decided."""
        return self.requests - self.failed

    @property
    def exited(self) -> int:
        """Requests that it answered by itself."""
        return self.seen - self.deferred


def looks(requests: int) -> tuple[int, ...]:
    """After how many requests the bands are looked at: ten, each time twice as many, and all.

    Example:
        >>> looks(200)
        (10, 20, 40, 80, 160, 200)
    """
    found = [FIRST_LOOK]
    while 2 * found[-1] < requests:
        found.append(2 * found[-1])
    return tuple(sorted({min(one, requests) for one in (*found, requests)}))


def out_of_band(
    counts: Counts, exits: Rate | None, before: Counts | None, *, false_alarm: float, looks_in_all: int
) -> str | None:
    """Why a bundle is not what its certificate says; None if nothing speaks against it.

    Args:
        counts: its requests.
        exits: units of val_calib that exit; None where nothing is certified, so that nothing exits.
        before: requests of the bundle before; None if there was none.
        false_alarm: probability of a reason at any look, if the bundle is as its certificate says.
        looks_in_all: number of looks.
    """
    share = false_alarm / TESTS
    level = share / 2 / looks_in_all
    compared = before is not None and before.requests >= ENOUGH_BEFORE
    known = before if before is not None and compared else Counts()

    def differs(number: int, of: int, earlier: int, earlier_of: int) -> bool:
        return not compared or more_than(number, of, earlier, earlier_of) < level

    failed, requests = counts.failed, counts.requests
    if _at_least(failed, requests, TOLERATED_FAILURES) < level and differs(
        failed, requests, known.failed, known.requests
    ):
        return f"Stage-1 failed on {failed} of {requests} requests"
    if exits is None:
        return None
    low = lower_bound(exits.events, exits.trials, share / 2)
    high = upper_bound(exits.events, exits.trials, share / 2)
    band = f"the certificate says {low:.0%} to {high:.0%}"
    told = f"{counts.exited} of {counts.seen} requests exited"
    if p_value(counts.exited, counts.seen, low) < level and differs(
        counts.deferred, counts.seen, known.deferred, known.seen
    ):
        return f"{told}, too few: {band}"
    if _at_least(counts.exited, counts.seen, high) < level and differs(
        counts.exited, counts.seen, known.exited, known.seen
    ):
        return f"{told}, too many: {band}"
    return None


def more_than(number: int, of: int, earlier: int, earlier_of: int) -> float:
    """p-value of Fisher's exact test against "not more often than before".

    Args:
        number: events.
        of: among so many.
        earlier: events before.
        earlier_of: among so many.

    Example:
        >>> round(more_than(3, 4, 1, 4), 4)
        0.2429
    """
    events, trials = number + earlier, of + earlier_of
    ways = sum(comb(of, k) * comb(earlier_of, events - k) for k in range(number, min(of, events) + 1))
    return ways / comb(trials, events)


def _at_least(events: int, trials: int, rate: float) -> float:
    """P(Bin(trials, rate) >= events); 1 without events."""
    return 1.0 if events <= 0 or rate >= 1 else p_value(trials - events, trials, 1 - rate)

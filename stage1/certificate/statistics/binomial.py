"""Exact binomial tests and bounds for 0/1 losses.

Counts are integers throughout: a count rebuilt as `m * rate` is off by one for thousands of (k, m) pairs.

References:
    Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.
    Angelopoulos, Bates, Candes, Jordan, Lei (2021), Learn then Test, arXiv 2110.01052.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

Counts = NDArray[np.integer]


def p_value(losses: int, trials: int, alpha: float) -> float:
    """p-value of the hypothesis "the risk is above alpha": P(Bin(trials, alpha) <= losses).

    Args:
        losses: number of losses, `0 <= losses <= trials`.
        trials: number of independent trials; with none, the answer is 1 (nothing can be certified).
        alpha: risk level in (0, 1).
    """
    return 1.0 if trials <= 0 else float(bdtr(losses, trials, alpha))


def p_values(losses: Counts, trials: Counts, alpha: float) -> NDArray[np.float64]:
    """`p_value` for many pairs of counts at once, `(J,)`."""
    tails: NDArray[np.float64] = np.where(
        trials > 0, bdtr(losses.astype(np.float64), np.maximum(trials, 1), alpha), 1.0
    )
    return tails


def upper_bound(losses: int, trials: int, delta: float) -> float:
    """One-sided Clopper-Pearson upper bound on a rate, at confidence `1 - delta`; 1 without trials."""
    return 1.0 if trials <= 0 or losses >= trials else float(betaincinv(losses + 1, trials - losses, 1 - delta))


def lower_bound(successes: int, trials: int, delta: float) -> float:
    """One-sided Clopper-Pearson lower bound on a rate, at confidence `1 - delta`; 0 without trials."""
    return 0.0 if trials <= 0 or successes <= 0 else float(betaincinv(successes, trials - successes + 1, delta))


def trials_needed(losses: int, alpha: float, delta: float) -> int:
    """Fewest trials with which `losses` losses still certify a risk of at most alpha at confidence `1 - delta`.

    Example:
        >>> trials_needed(0, alpha=0.02, delta=0.10)
        114
    """
    low, high = losses, losses + 1
    while p_value(losses, high, alpha) > delta:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if p_value(losses, middle, alpha) <= delta else (middle, high)
    return high


def losses_allowed(trials: int, alpha: float, delta: float) -> int:
    """Most losses with which `trials` trials still certify a risk of at most alpha; -1 if not even none does.

    Example:
        >>> losses_allowed(300, alpha=0.02, delta=0.10)
        2
    """
    low, high = -1, trials
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if p_value(middle, trials, alpha) <= delta else (low, middle)
    return low


def power(trials: int, rate: float, alpha: float, delta: float) -> float:
    """Probability that `trials` trials certify a risk of at most alpha if the true risk is `rate`.

    Example:
        >>> round(power(300, rate=0.005, alpha=0.02, delta=0.10), 2)
        0.81
    """
    allowed = losses_allowed(trials, alpha, delta)
    return 0.0 if allowed < 0 else p_value(allowed, trials, rate)

"""Exact binomial tests and bounds for 0/1 losses.

Counts are integers throughout: a count rebuilt as `m * rate` is off by one for thousands of (k, m) pairs.

References:
    Clopper and Pearson (1934), The use of confidence or fiducial limits illustrated in the case of the binomial.
    Angelopoulos, Bates, Candes, Jordan, Lei (2021), Learn then Test, arXiv 2110.01052.
"""

from __future__ import annotations

from scipy.special import bdtr, betaincinv


def p_value(losses: int, trials: int, alpha: float) -> float:
    """p-value of the hypothesis "the risk is above alpha": P(Bin(trials, alpha) <= losses).

    Args:
        losses: number of losses, `0 <= losses <= trials`.
        trials: number of independent trials; with none, the answer is 1 (nothing can be certified).
        alpha: risk level in (0, 1).
    """
    return 1.0 if trials <= 0 else float(bdtr(losses, trials, alpha))


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

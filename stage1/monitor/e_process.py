"""Tests by betting that may be looked at after every audit.

With the weighted counts Z and S of an audit and x = Z - alpha S, a bet of lambda multiplies the wealth by 1 + lambda x.
While the risk is at most alpha, x is at most 0 on average and no bet gains. Everything is kept in logarithms.

References:
    Ville (1939): a nonnegative martingale that begins at 1 ever reaches 1 / delta with probability at most delta.
    Timans et al. (2025), On continuous monitoring of risk violations under unknown shift, UAI, arXiv 2506.16416.
    Shin, Ramdas, Rinaldo (2024), E-detectors: a nonparametric framework for sequential change detection, NEJSDS 2(2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# A factor of a bet is never below one minus this.
LARGEST_LOSS = 0.9
Logs = tuple[float, ...]


def wagers(bets: Sequence[float], alpha: float, least_share: float) -> tuple[float, ...]:
    """Bets lambda, such that `1 + lambda x` is at least 0.1 whatever an audit shows.

    Args:
        bets: as shares of the largest.
        alpha: the risk that is tested.
        least_share: smallest chance with which any exit is audited.
    """
    return tuple(bet * LARGEST_LOSS * least_share / alpha for bet in bets)


def wealth_after(logs: Logs, lambdas: Sequence[float], x: float) -> Logs:
    """Log wealth of every bet after an audit; begins at 0."""
    return tuple(log + math.log1p(bet * x) for log, bet in zip(logs, lambdas, strict=True))


def detector_after(logs: Logs, lambdas: Sequence[float], x: float) -> Logs:
    """The Shiryaev-Roberts statistic M of every bet after an audited trial, as log(1 + M); begins at 0.

    M becomes (M + 1)(1 + lambda x): a bet that begins anew with every trial, and so forgets a long good time.
    """
    return tuple(log_sum_exp((0.0, log + math.log1p(bet * x))) for log, bet in zip(logs, lambdas, strict=True))


def log_mean_wealth(logs: Logs) -> float:
    """Log of the mean wealth; an alarm at log(1 / delta)."""
    return log_sum_exp(logs) - math.log(len(logs))


def log_mean_detector(logs: Logs) -> float:
    """Log of the mean of M; an alarm at the log of the average run length. -inf before the first trial."""
    statistics = [log + math.log1p(-math.exp(-log)) for log in logs if log > 0]
    return log_sum_exp(statistics) - math.log(len(logs)) if statistics else -math.inf


def log_sum_exp(logs: Sequence[float]) -> float:
    """Log of a sum of exponentials that does not overflow."""
    most = max(logs)
    return most + math.log(math.fsum(math.exp(log - most) for log in logs))

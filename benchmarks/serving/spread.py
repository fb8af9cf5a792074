"""What rounds say: the middle, the spread, and the smallest difference that they could have seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t

# Two-sided level and power of the smallest difference.
LEVEL, POWER = 0.05, 0.8


def smallest_change(ratios: Sequence[float]) -> float:
    """The smallest relative change of a ratio that so many rounds with this spread find with a power of 80 %.

    Args:
        ratios: one a round, positive. NaN with fewer than two.
    """
    if len(ratios) < 2:
        return float("nan")
    free = len(ratios) - 1
    error = float(np.std(np.log(ratios), ddof=1)) / np.sqrt(len(ratios))
    return float(np.expm1((t.ppf(1 - LEVEL / 2, free) + t.ppf(POWER, free)) * error))


def told(values: Sequence[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{np.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def told_ratio(ratios: Sequence[float], digits: int = 2) -> str:
    """The same of ratios, with the smallest difference that can be seen."""
    return f"{told(ratios, digits)} over {len(ratios)} rounds, which show a change of {smallest_change(ratios):.0%}"


def quantiles_ms(seconds: Sequence[float]) -> tuple[float, float]:
    """p50 and p99, milliseconds."""
    p50, p99 = np.quantile(np.asarray(seconds), (0.5, 0.99)) * 1e3
    return float(p50), float(p99)

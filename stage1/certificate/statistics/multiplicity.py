"""Multiple testing: which of several hypotheses may be rejected at a family-wise level.

References:
    Holm (1979), A simple sequentially rejective multiple test procedure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def holm(p_values: NDArray[np.float64], delta: float) -> NDArray[np.float64]:
    """Level at which Holm's procedure rejects each hypothesis, 0 where it does not, `(J,)`.

    Args:
        p_values: of any dependence, `(J,)`.
        delta: family-wise level.
    """
    order = np.argsort(p_values, kind="stable")
    levels = delta / (len(order) - np.arange(len(order)))
    accepted = np.flatnonzero(~(p_values[order] <= levels))
    rejected = int(accepted[0]) if len(accepted) else len(order)
    granted = np.zeros(len(order))
    granted[order[:rejected]] = levels[:rejected]
    return granted

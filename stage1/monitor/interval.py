"""An interval of the risk that may be looked at after every audit.

For each rate of a grid two games are played: one gains if the risk is above the rate, the other if it is below. A rate
whose game has multiplied its stake by 2 / delta is left out.

References:
    Waudby-Smith, Ramdas (2024), Estimating means of bounded random variables by betting, JRSS B 86(1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stage1.monitor.e_process import LARGEST_LOSS

RATES: tuple[float, ...] = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.0125, 0.015, 0.0175, 0.02, 0.025, 0.03, 0.035, 0.04, 0.05, 0.06,
    0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9,
)  # fmt: skip
BETS: tuple[float, ...] = (0.05, 0.2, 0.6)
Table = tuple[tuple[float, ...], ...]
_RATES: NDArray[np.float64] = np.array(RATES)[:, None]
_BETS: NDArray[np.float64] = np.array(BETS)[None, :]


def fresh_games() -> Table:
    """Log wealth of every game at the beginning: for each rate the bets that it is above, then that it is below."""
    return tuple((0.0,) * (2 * len(BETS)) for _ in RATES)


def games_after(games: Table, loss: float, trial: float, least_share: float, labelled: float = 1.0) -> Table:
    """Log wealth after an audit.

    Args:
        games: before it.
        loss: its weighted loss.
        trial: its weighted trial.
        least_share: smallest chance with which any exit is audited.
        labelled: chance that a label is asked for where Stage-2 does not contradict; 1 where no label is drawn.
    """
    x = loss - _RATES * trial
    above = _BETS * LARGEST_LOSS * least_share / _RATES
    # Of a label that was drawn, `x` is at most `1 / labelled - rate`: the loss weighs more than the trial does.
    below = _BETS * LARGEST_LOSS * least_share * labelled / (1 - _RATES * labelled)
    table = np.array(games) + np.concatenate([np.log1p(above * x), np.log1p(-below * x)], axis=1)
    return tuple(map(tuple, table.tolist()))


def interval(games: Table, delta: float) -> tuple[float, float]:
    """Lower and upper end of the risk with confidence `1 - delta`, at whatever time it is asked for.

    The ends are rates of the grid, or 0 and 1.
    """
    table, limit = np.array(games), np.log(2 / delta)
    wealth = [np.logaddexp.reduce(part, axis=1) - np.log(len(BETS)) for part in np.split(table, 2, axis=1)]
    higher, lower = _RATES[wealth[0] >= limit, 0], _RATES[wealth[1] >= limit, 0]
    return float(higher.max(initial=0.0)), float(lower.min(initial=1.0))

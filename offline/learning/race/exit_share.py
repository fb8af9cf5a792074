"""How good scores are for a cascade: how much of the rows may exit at given miss rates, and how well they are meant."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.learning.checkpoint_score import MISS_RATES

Doubles = NDArray[np.float64]


class ExitShare:
    """Mean share of rows that exit at several miss rates, for any weights of the rows.

    Both kinds of exits count, because a cascade saves a call to Stage-2 by either; `checkpoint_score.exit_share`, which
    chooses among checkpoints of one training, counts the rows without roadwork alone.

    At a miss rate m the rows with the lowest scores exit as no roadwork, as many as hold at most a share m of the
    roadwork; the rows with the highest scores exit as roadwork, as many as hold at most a share `false_alarm_rate` of
    the rest. Rows of one score exit together.

    Args:
        scores: of roadwork, `(N,)`.
        labels: 0 or 1, `(N,)`.
        false_alarm_rate: see above.
        miss_rates: see above.
    """

    def __init__(
        self,
        scores: NDArray[np.floating],
        labels: NDArray[np.integer],
        false_alarm_rate: float,
        miss_rates: tuple[float, ...] = MISS_RATES,
    ) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered, count = scores[self._order], len(scores)
        self._positive = labels[self._order] == 1
        self._first = np.append(np.searchsorted(ordered, ordered, "left"), count)
        self._after = np.append(np.searchsorted(ordered, ordered, "right")[::-1], 0)
        self._miss_rates, self._false_alarm_rate = np.asarray(miss_rates), false_alarm_rate

    def __call__(self, weights: Doubles) -> float:
        """The share, in [0, 1]; NaN where no roadwork or nothing else has a weight.

        Args:
            weights: of the rows, `(N,)`.
        """
        drawn = weights[self._order]
        missed, alarmed = np.cumsum(drawn * self._positive), np.cumsum((drawn * ~self._positive)[::-1])
        if not (missed[-1] > 0 and alarmed[-1] > 0):
            return np.nan
        below = np.append(0.0, np.cumsum(drawn))
        # A sum of whole weights is exact; the share of one is not.
        slack = 1e-9
        last = self._first[np.searchsorted(missed, self._miss_rates * missed[-1] + slack, "right")]
        first = self._after[np.searchsorted(alarmed, self._false_alarm_rate * alarmed[-1] + slack, "right")]
        exits = np.where(last <= first, below[last] + below[-1] - below[first], below[-1])
        return float(exits.mean() / below[-1])


def log_loss(log_odds: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Mean negative log-likelihood of labels under log-odds of roadwork, in nats.

    Args:
        log_odds: `(N,)`.
        labels: 0 or 1, `(N,)`.
    """
    return float(losses(log_odds, labels).mean())


def losses(log_odds: NDArray[np.floating], labels: NDArray[np.integer]) -> Doubles:
    """Negative log-likelihood of each label under log-odds of roadwork, in nats, float64 `(N,)`.

    Args:
        log_odds: `(N,)`.
        labels: 0 or 1, `(N,)`.
    """
    wrong: Doubles = np.where(labels == 1, -log_odds, log_odds).astype(np.float64)
    return np.logaddexp(0.0, wrong)

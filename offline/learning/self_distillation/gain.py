"""What the best of several networks gains over the one as it came, with an interval.

The best of many looks better than it is: it was chosen for its luck as well. The interval is therefore simultaneous
over all that were judged, so that it holds for whichever of them was chosen.

References:
    Westfall and Young (1993), Resampling-based multiple testing, chapter 2 (the largest deviation of all).
    Field and Welsh (2007), Bootstrapping clustered data, https://doi.org/10.1111/j.1467-9868.2007.00593.x
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.metrics.bootstrap import Groups, group_weights
from stage1.metrics.classification import roc_auc

REPETITIONS = 2000
LEVEL = 0.95
TOGETHER = 250

Scores = NDArray[np.float64]


class Gain(BaseModel):
    """What the best of several backbones gains over the one as it came, in area under the ROC curve.

    Attributes:
        estimate: area of the best minus area of the backbone as it came.
        lower: lower end of the interval, simultaneous over all that were judged.
        upper: upper end.
        level: nominal coverage of the interval.
        judged: backbones among which the best was chosen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimate: float
    lower: float
    upper: float
    level: float
    judged: int


def gain_of(
    before: Scores,
    judged: Sequence[Scores],
    best: int,
    labels: NDArray[np.integer],
    groups: Groups,
    *,
    seed: int,
    repetitions: int = REPETITIONS,
) -> Gain:
    """What one of several networks gains over another, in area under the ROC curve, with whole groups drawn again.

    All are seen under the same draws. The ends of the interval are the estimate less the quantiles of the largest and
    of the smallest deviation of any of them, so they hold for all at once.

    Args:
        before: scores of the network as it came, `(M,)`.
        judged: of each network that could have been chosen, `(M,)`.
        best: which of them was.
        labels: 0 or 1, both present, `(M,)`.
        groups: group of each row, `(M,)`.
        seed: of the draws.
        repetitions: replicates.
    """
    areas = [roc_auc(scores, labels) for scores in (before, *judged)]

    def gains(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        first, *others = (np.asarray(area(weights)) for area in areas)
        return np.stack([each - first for each in others], axis=-1)

    estimates = gains(np.ones(len(labels)))
    draws = group_weights(groups, repetitions, np.random.default_rng(seed))
    blocks = (np.stack([*islice(draws, TOGETHER)]) for _ in range(0, repetitions, TOGETHER))
    deviations = np.concatenate([gains(weights) for weights in blocks]) - estimates
    # A draw without one of the classes has no area.
    defined = deviations[~np.isnan(deviations).any(1)]
    chosen, tail = float(estimates[best]), (1 - LEVEL) / 2
    # Where no draw says anything, all that is known of a difference of two areas is this.
    lower, upper = -1.0, 1.0
    if len(defined):
        lower = chosen - float(np.quantile(defined.max(1), 1 - tail))
        upper = chosen - float(np.quantile(defined.min(1), tail))
    return Gain(estimate=chosen, lower=lower, upper=upper, level=LEVEL, judged=len(judged))

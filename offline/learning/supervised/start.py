"""Whether a training has started: whether its loss has left that of chance.

A network that answers every image with the shares of the classes has the entropy of these shares as its loss. A
training can stay there to its end: a rate that is too high throws the outputs to a constant from which no gradient
leads away, or a climb of Friendly-SAM is longer than the adapter. Such a training begins again, once, at a third of the
rate. Lower and not higher: from a rate that is too high there is no way back, while one that is too low leaves chance
later, and the second training, which runs to its end, has the time for that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, log_softmax

from stage1.outputs import Stage1Outputs

# A loss that is less than so much of the entropy below it is that of chance. On small scenes, trainings that learned
# were 4 % below after a third of their steps, and those that never started stayed within 1 % to the end.
MARGIN = 0.02
# Judged after so much of the steps: the warm-up is over, and most of the time is left.
START_SHARE = 1 / 3
SECOND_RATE = 1 / 3


def chance_loss(share: float) -> float:
    """The least loss of an answer that is the same for every row: the entropy of the shares of the classes, in nats.

    Args:
        share: of roadwork, as training weighs it, in (0, 1); ln 2 at one half.
    """
    return float(entr([share, 1 - share]).sum())


def class_loss(outputs: Stage1Outputs, labels: NDArray[np.integer], share: float) -> float:
    """Mean cross-entropy of the class head, in nats, with the classes weighing as they do in training.

    The rows that choose may have other shares than those that train. By their own a network that learned well could
    have a larger loss than one that answers all rows alike.

    Args:
        outputs: for N rows.
        labels: 0 or 1, both present, `(N,)`.
        share: of roadwork, as training weighs it.
    """
    losses = -log_softmax(outputs.logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels]
    return float((1 - share) * losses[labels == 0].mean() + share * losses[labels == 1].mean())


def at_chance(losses: Sequence[float], chance: float) -> bool:
    """Whether no loss of a training was clearly below that of chance.

    Args:
        losses: of `class_loss`, of each time that it was judged; at least one.
        chance: of `chance_loss`.
    """
    return min(losses) > (1 - MARGIN) * chance

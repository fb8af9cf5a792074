"""Who judges an adaptation: a probe on the features of a network, pooled as the network pools them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from offline.learning.self_distillation.gain import Gain, Scores, gain_of
from offline.learning.self_distillation.probe import fitting, linear_probe, nearest_neighbours
from stage1.metrics.bootstrap import Groups
from stage1.metrics.classification import roc_auc

if TYPE_CHECKING:
    from offline.learning.predict import ImageSet
    from stage1.model.net import Stage1Net


@dataclass(frozen=True)
class Judge:
    """Judges networks by what their features say of the same rows.

    Attributes:
        scores: maps a network to one number a row, larger for roadwork, float64 `(M,)`.
        labels: 0 or 1, both present, `(M,)`.
        groups: group of each row, `(M,)`.
    """

    scores: Callable[[Stage1Net], Scores]
    labels: NDArray[np.integer]
    groups: Groups

    def value(self, scores: Scores) -> float:
        """Area under the ROC curve of a network's scores: no cut has to be chosen, and it is less noisy than one."""
        return float(roc_auc(scores, self.labels)(np.ones(len(self.labels))))

    def gain(self, before: Scores, judged: Sequence[Scores], best: int, *, seed: int) -> Gain:
        """What one of several gains over the backbone as it came; see `gain_of`."""
        return gain_of(before, judged, best, self.labels, self.groups, seed=seed)


def feature_judge(kind: Literal["probe", "neighbours"], train: ImageSet, val_select: ImageSet) -> Judge:
    """Judges a network by what its features of train say of val_select.

    The features are those that the heads of the network get, pooled as it pools. Where it pools by attention, the probe
    trains a pool of its own, because that of the network has not learned yet where to look; neighbours see the mean.

    Args:
        kind: `probe` or `neighbours`.
        train: images that fit the judge; see `fitting`.
        val_select: images that it is judged on.
    """
    # torch is loaded only where a network is judged
    from offline.learning.predict import features  # noqa: PLC0415
    from offline.learning.self_distillation.attentive_probe import attentive_probe, looks  # noqa: PLC0415

    judge = linear_probe if kind == "probe" else nearest_neighbours
    picked = fitting(len(train.images))

    def scores(net: Stage1Net) -> Scores:
        if kind == "probe" and looks(net):
            return attentive_probe(net, train.images[picked], train.data.labels[picked], val_select.images)
        ours, theirs = (
            features(net, images).float().cpu().numpy() for images in (train.images[picked], val_select.images)
        )
        return judge(ours, train.data.labels[picked], theirs)

    return Judge(scores, val_select.data.labels, val_select.data.groups)

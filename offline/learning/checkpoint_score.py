"""Which checkpoint of a training is the best: what may exit at several miss rates, and what the scores know.

The exit coverage that val_select would certify is what the cascade is for, and a poor judge: it hangs on a handful of
the lowest positives. So it does not choose; it settles what is level otherwise, and stands in the record.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr, expit

from offline.data.dataset import Dataset
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.errors import CalibrationError
from stage1.metrics.reliability import negative_log_likelihood
from stage1.outputs import Stage1Outputs
from stage1.probability.fit import PENALTIES, fit_affine

# Shares of the roadwork that a threshold may miss; the mean over all of them is smoother than the share at any one.
MISS_RATES = tuple(percent / 100 for percent in range(1, 11))


@dataclass(frozen=True, order=True)
class SelectiveScore:
    """How good a checkpoint is on val_select, best last when sorted: by the first of these that differs.

    Attributes:
        value: mean of `exit_share` and `information`, at most 1; near 0 for scores that know nothing.
        coverage: exit coverage at the hard rule that val_select would choose.
        negative_loss: minus the mean cross-entropy of the raw logits.
    """

    value: float
    coverage: float
    negative_loss: float


def selective_score(outputs: Stage1Outputs, data: Dataset, settings: CalibrationSettings) -> SelectiveScore:
    """Judge a checkpoint.

    Args:
        outputs: for the rows of val_select, `(N,)`.
        data: those rows, both classes.
        settings: risk level of the hard rule.
    """
    labelled = LabelledOutputs(outputs, data.labels, data.ids, data.groups)
    value = (exit_share(outputs.roadwork_score, data.labels) + information(outputs, data.labels)) / 2
    loss = negative_log_likelihood(expit(outputs.roadwork_score.astype(np.float64)), data.labels)
    return SelectiveScore(value, select(labelled, settings).expected_coverage, -loss)


def exit_share(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Share of the rows without roadwork that may exit, a mean over the miss rates 1 % to 10 %, in [0, 1].

    At a miss rate r the threshold is the r-quantile of the scores with roadwork, between two of them in a straight
    line, and a row exits below it. This is the mean of the true negative rate over the leftmost tenth of the miss
    rates, so a rank statistic: no shift and no scale of the scores changes it.

    Args:
        scores: larger for roadwork, `(N,)`.
        labels: 0 or 1, both present, `(N,)`.
    """
    thresholds = np.quantile(scores[labels == 1], MISS_RATES)
    return float(np.mean(scores[labels == 0] < thresholds[:, None]))


def information(outputs: Stage1Outputs, labels: NDArray[np.integer]) -> float:
    """Share of the entropy of the labels that the scores explain, at most 1; 0 if they know nothing.

    One minus the mean log-loss over the entropy of the class shares, after the beta calibrator that fits these rows
    best, so that a training that moves or stretches the scores, as conformal risk training does, is judged by what
    calibration will see. Its three numbers are fitted on the rows that judge: about 1.5 / N too much for everyone.

    Args:
        outputs: for N images.
        labels: 0 or 1, both present, `(N,)`.

    Reference:
        McFadden (1974), Conditional logit analysis of qualitative choice behavior (the pseudo R squared).
    """
    try:
        probability = fit_affine("beta", outputs.logits, labels, PENALTIES["beta"]).probabilities(outputs.logits)[:, 1]
    except CalibrationError:
        # The search does not end where the classes hardly overlap; there the raw scores say nearly as much.
        probability = expit(outputs.roadwork_score.astype(np.float64))
    return explained(negative_log_likelihood(probability, labels), labels)


def explained(loss: float, labels: NDArray[np.integer]) -> float:
    """Share of the entropy of the labels that is explained where such a loss is left, at most 1.

    Args:
        loss: mean negative log-likelihood of the labels, in nats.
        labels: 0 or 1, both present, `(N,)`.
    """
    shares = np.bincount(labels, minlength=2) / len(labels)
    return 1 - loss / float(entr(shares).sum())

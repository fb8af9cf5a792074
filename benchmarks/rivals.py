"""Two models on the same rows whose true difference is known."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from offline.publish.comparison import Judged
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.outputs import Stage1Outputs
from stage1.probability.calibrator import ProbabilityCalibrator

FRAMES = 3
# Of what decides whether a model is right: shared by both models, and by the frames of a group.
SHARED, IN_GROUP = 0.8, 0.5


def rivals(
    params: ScrcParams,
    rng: np.random.Generator,
    groups: int,
    *,
    accuracy: tuple[float, float] = (0.9, 0.9),
    coverage: tuple[float, float] = (0.7, 0.7),
) -> tuple[Judged, Judged]:
    """A challenger and a champion with these true rates, on the same groups of three frames.

    Args:
        params: policy of both.
        rng: source of the draws.
        groups: independent groups.
        accuracy: of the challenger and of the champion.
        coverage: exit coverage of the challenger and of the champion.
    """
    count = groups * FRAMES
    labels = np.repeat(np.arange(groups) % 3 == 0, FRAMES)
    ids = [str(row) for row in range(count)]
    names = [str(row // FRAMES) for row in range(count)]
    outputs = Stage1Outputs(np.zeros((count, 2), np.float32), np.zeros(count, np.float32))
    rows = LabelledOutputs(outputs, labels.astype(np.int8), ids, names)

    def latent() -> np.ndarray:
        group = np.repeat(rng.normal(size=groups), FRAMES)
        return math.sqrt(IN_GROUP) * group + math.sqrt(1 - IN_GROUP) * rng.normal(size=count)

    shared = {"accuracy": latent(), "coverage": latent()}

    def mask(kind: str, rate: float) -> np.ndarray:
        score = math.sqrt(SHARED) * shared[kind] + math.sqrt(1 - SHARED) * latent()
        return np.asarray(score < norm.ppf(rate))

    def one(which: int) -> Judged:
        right, exits = mask("accuracy", accuracy[which]), mask("coverage", coverage[which])
        probability = np.where(right == labels, 0.9, 0.1)
        return Judged(params, ProbabilityCalibrator(), rows, exits, right, probability)

    return one(0), one(1)

"""Calibrated probability of roadwork: for what is answered and reported, never for the decision to exit."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.special import expit, log_expit

from stage1.artifacts import Artifact
from stage1.decisions import Decisions
from stage1.outputs import Stage1Outputs


class ProbabilityCalibrator(Artifact):
    """Two-class Dirichlet calibration: logit q = a ln p1 - b ln p0 + c, with a, b >= 0.

    For two classes this is beta calibration; a = b is Platt scaling, a = b and c = 0 temperature scaling.

    Attributes:
        a: weight of the log-probability of roadwork.
        b: weight of the log-probability of no roadwork.
        c: intercept.
        rows: rows it was fitted on, 0 for the identity.

    References:
        Kull et al. (2019), Beyond temperature scaling: Dirichlet calibration, arXiv 1910.12656.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    a: float = Field(default=1.0, ge=0)
    b: float = Field(default=1.0, ge=0)
    c: float = 0.0
    rows: int = Field(default=0, ge=0)

    def probability(self, outputs: Stage1Outputs) -> NDArray[np.float64]:
        """Calibrated probability of roadwork, float64 `(N,)`."""
        score = outputs.roadwork_score.astype(np.float64)
        calibrated: NDArray[np.float64] = expit(self.a * log_expit(score) - self.b * log_expit(-score) + self.c)
        return calibrated


def fit_calibrator(
    outputs: Stage1Outputs, labels: NDArray[np.integer], *, ridge: float = 1e-3
) -> ProbabilityCalibrator:
    """Fit by maximum likelihood with a ridge towards the identity.

    The off-diagonal penalty of the paper (ODIR) has no effect for two classes, hence the ridge.

    Args:
        outputs: outputs for N images that trained nothing.
        labels: 0 or 1, `(N,)`.
        ridge: weight of the squared distance to a = b = 1, c = 0.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  slow to import, and a live miner fits nothing

    score, y = outputs.roadwork_score.astype(np.float64), labels.astype(np.float64)
    design = np.column_stack([log_expit(score), -log_expit(-score), np.ones(len(y))])
    identity = np.array([1.0, 1.0, 0.0])

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z = design @ theta
        loss = np.mean(np.logaddexp(0, z) - y * z) + ridge / 2 * np.sum((theta - identity) ** 2)
        return float(loss), design.T @ (expit(z) - y) / len(y) + ridge * (theta - identity)

    bounds = [(0, None), (0, None), (None, None)]
    a, b, c = minimize(objective, identity, jac=True, method="L-BFGS-B", bounds=bounds).x
    return ProbabilityCalibrator(a=float(a), b=float(b), c=float(c), rows=len(y))


def answer_probability(probability: NDArray[np.float64], decisions: Decisions) -> NDArray[np.float64]:
    """What is answered: the calibrated probability, kept on the side of the label an image exits with.

    Validators round the answer, half to 0, so an exit with label 1 answers more than one half.
    """
    above_half = np.nextafter(0.5, 1.0) + 1e-6
    answer = np.where(decisions.exit_label == 0, np.minimum(probability, 0.5), probability)
    kept: NDArray[np.float64] = np.where(decisions.exit_label == 1, np.maximum(answer, above_half), answer)
    return kept

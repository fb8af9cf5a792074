"""Calibrators whose numbers a test knows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stage1.probability.calibrator import MAIN_HEAD, AffineCalibrator, HeadCalibrator, ProbabilityCalibrator


def calibrator_of_slopes(a: float, b: float, c: float = 0.0, *, rows: int = 0) -> ProbabilityCalibrator:
    """For the main head alone: the log-odds of roadwork are a ln p1 - b ln p0 + c."""
    calibrator = AffineCalibrator(kind="beta", weights=((b, 0.0), (0.0, a)), intercept=(0.0, c), rows=rows)
    return ProbabilityCalibrator(heads={MAIN_HEAD: HeadCalibrator.of(calibrator)})


def head_probabilities(
    calibrator: ProbabilityCalibrator, name: str, logits: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Calibrated probability of every class of a head, `(N, K)`."""
    return calibrator.heads[name].answering.probabilities(logits)

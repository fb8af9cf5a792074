"""Fits calibrators on held-out rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from stage1.errors import CalibrationError
from stage1.outputs import Stage1Outputs
from stage1.probability.calibrator import (
    MAIN_HEAD,
    AffineCalibrator,
    Doubles,
    HeadCalibrator,
    Kind,
    ProbabilityCalibrator,
    checked_labels,
    log_softmax,
)

# Largest slope left in any direction, each measured in standard deviations of what it multiplies.
CONVERGED = 1e-5
RESTARTS = 20


class Penalty(NamedTuple):
    """Weights of the squared distances to the identity, each a mean over its entries.

    For two classes the entries off the diagonal can do nothing that the diagonal cannot, so ODIR's penalty on them has
    no effect, and they stay 0. The penalty on the diagonal is ours: without it, separable classes have no best fit.

    Attributes:
        off_diagonal: on the entries of W off the diagonal, lambda in ODIR.
        intercept: on b, mu in ODIR.
        diagonal: on the diagonal of W minus 1.
    """

    off_diagonal: float = 0.0
    intercept: float = 0.0
    diagonal: float = 0.0


PENALTIES: Mapping[Kind, Penalty] = {
    "dirichlet": Penalty(1e-3, 1e-3, 1e-6),
    "beta": Penalty(intercept=1e-6, diagonal=1e-6),
    "temperature": Penalty(diagonal=1e-6),
}


def fit_calibrator(
    outputs: Stage1Outputs,
    labels: NDArray[np.generic],
    *,
    head_labels: Mapping[str, NDArray[np.generic]] | None = None,
    answers: Kind = "dirichlet",
) -> ProbabilityCalibrator:
    """Fit every kind of calibrator for the main head, and for each named head that has labels.

    Args:
        outputs: outputs for N images that trained nothing.
        labels: 0 or 1, `(N,)`.
        head_labels: class of each row, in 0..K-1, `(N,)`, by name of the head.
        answers: kind that answers; a head of more than two classes has no beta calibrator, and answers by Dirichlet.

    Raises:
        CalibrationError: a head is not among the outputs, labels are missing, unknown or of a single class, or the
            search for the best fit did not end.
    """
    targets = {MAIN_HEAD: (outputs.logits, labels)}
    for name, classes in (head_labels or {}).items():
        if name == MAIN_HEAD or name not in outputs.heads:
            named = ", ".join(sorted(outputs.heads)) or "no named heads"
            raise CalibrationError(f"labels for head {name!r}, but the outputs have {named}")
        targets[name] = (outputs.heads[name], classes)
    return ProbabilityCalibrator(
        heads={name: fit_head(name, logits, classes, answers) for name, (logits, classes) in targets.items()}
    )


def fit_head(
    name: str, logits: NDArray[np.floating], classes: NDArray[np.generic], answers: Kind = "dirichlet"
) -> HeadCalibrator:
    """Fit every kind of calibrator for one head.

    Args:
        name: of the head, for messages.
        logits: `(N, K)`.
        classes: class of each row, in 0..K-1, `(N,)`.
        answers: kind that answers; a head of more than two classes has no beta calibrator, and answers by Dirichlet.

    Raises:
        CalibrationError: labels are missing, unknown or of a single class, or the search for the best fit did not end.
    """
    kinds: tuple[Kind, ...] = ("dirichlet", "beta", "temperature")
    if logits.shape[1] > 2:
        kinds = ("dirichlet", "temperature")
    try:
        fitted = tuple(fit_affine(kind, logits, classes, PENALTIES[kind]) for kind in kinds)
    except CalibrationError as error:
        raise CalibrationError(f"head {name!r}: {error}") from error
    return HeadCalibrator(answers=answers if answers in kinds else "dirichlet", fitted=fitted)


def fit_affine(
    kind: Kind, logits: NDArray[np.floating], labels: NDArray[np.generic], penalty: Penalty
) -> AffineCalibrator:
    """Fit one calibrator by the least mean negative log-likelihood plus penalty, which is convex.

    Args:
        kind: which numbers are free. `temperature`: one factor of all logits, at least 0. `beta`, and `dirichlet` for
            two classes: two slopes of at least 0 and an intercept. `dirichlet` for more: all of W and b.
        logits: `(N, K)`.
        labels: class of each row, in 0..K-1, `(N,)`.
        penalty: see `Penalty`.

    Raises:
        CalibrationError: labels are missing, unknown or of a single class, or the search for the best fit did not end.
    """
    from scipy.optimize import minimize  # noqa: PLC0415  slow to import, and a live miner fits nothing

    rows, classes = logits.shape
    if kind == "beta" and classes != 2:
        raise CalibrationError(f"beta calibration is for two classes, not {classes}")
    label = checked_labels(labels, rows, classes)
    log_p = log_softmax(logits).T.copy()
    basis, slopes = _basis(kind, classes)
    identity = np.append(np.eye(classes), np.zeros(classes))
    pull = _pull(penalty, classes)
    # Steps of one standard deviation of the log-probabilities: boastful logits would make the valley steep and narrow.
    spread = np.append(np.full(classes**2, max(1.0, float(log_p.std()))), np.ones(classes))
    unit = 1 / (np.abs(basis) * spread[:, None]).max(axis=0)
    theta: Doubles = np.linalg.pinv(basis) @ identity / unit
    hit = label, np.arange(rows)

    def objective(theta: Doubles) -> tuple[float, Doubles]:
        numbers = basis @ (theta * unit)
        weights, intercept = numbers[:-classes].reshape(classes, classes), numbers[-classes:]
        log_q = log_softmax(weights @ log_p + intercept[:, None], axis=0)
        loss = -np.mean(log_q[hit]) + pull @ (numbers - identity) ** 2
        residual = np.exp(log_q)
        residual[hit] -= 1
        slope = np.append(residual @ log_p.T, residual.sum(axis=1)) / rows + 2 * pull * (numbers - identity)
        return float(loss), (basis.T @ slope) * unit

    floor = np.where(np.arange(basis.shape[1]) < slopes, 0.0, -np.inf)
    # A line search can stall far from the end; from where it stalled, with its memory lost, it goes on.
    for _ in range(RESTARTS):
        theta = minimize(
            objective,
            theta,
            jac=True,
            method="L-BFGS-B",
            bounds=[(least, None) for least in floor.tolist()],
            options={"maxiter": 10_000, "maxfun": 20_000, "ftol": 0.0, "gtol": CONVERGED / 100},
        ).x
        left = float(np.abs(theta - np.maximum(theta - objective(theta)[1], floor)).max())
        if left <= CONVERGED:
            break
    else:
        raise CalibrationError(f"the fit of the {kind} calibrator did not end: slope {left:.2g} left")
    numbers = basis @ (theta * unit)
    weights = numbers[:-classes].reshape(classes, classes)
    return AffineCalibrator(
        kind=kind,
        weights=tuple(tuple(row) for row in weights.tolist()),
        intercept=tuple(numbers[-classes:].tolist()),
        rows=rows,
    )


def _basis(kind: Kind, classes: int) -> tuple[Doubles, int]:
    """Which numbers (W row by row, then b) move with each free one, `(K K + K, P)`; the first so many are >= 0."""
    if kind == "temperature":
        return np.append(np.eye(classes), np.zeros(classes))[:, None], 1
    if classes == 2:
        return np.array([[0, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, -0.5], [0, 0, 0.5]]), 2
    return np.eye(classes * classes + classes), 0


def _pull(penalty: Penalty, classes: int) -> Doubles:
    """Weight of the squared distance of each number of W and b from the identity, `(K K + K,)`."""
    diagonal = np.eye(classes, dtype=bool)
    each = np.where(diagonal, penalty.diagonal / classes, penalty.off_diagonal / (classes * (classes - 1)))
    return np.append(each, np.full(classes, penalty.intercept / classes))

"""Calibrated probabilities: for what is answered and reported, never for the decision to exit.

Temperature scaling, beta calibration and Dirichlet calibration are one map of log-probabilities with more or fewer free
numbers, q = softmax(W ln p + b), so one class evaluates them all, and what a live miner reads is a few numbers in a
file. Libraries cost more than they save here: netcal depends on torch, gpytorch and pyro, betacal on scikit-learn, and
scikit-learn itself has only the temperature, inside a classifier that is stored by pickling it.

References:
    Guo et al. (2017), On calibration of modern neural networks, arXiv 1706.04599: temperature.
    Kull, Silva Filho and Flach (2017), Beta calibration, AISTATS: two classes, with both slopes nonnegative.
    Kull et al. (2019), Beyond temperature scaling: Dirichlet calibration, arXiv 1910.12656: ODIR, the penalty on what
        is off the diagonal and on the intercept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, log_expit

from stage1.artifacts import Artifact
from stage1.decisions import Decisions
from stage1.errors import CalibrationError
from stage1.metrics.risk_coverage import LEAST_PROBABILITY, reliability
from stage1.outputs import Stage1Outputs

Kind = Literal["dirichlet", "beta", "temperature"]
Doubles = NDArray[np.float64]

MAIN_HEAD = "class"
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


@dataclass(frozen=True, eq=False)
class _Map:
    """W transposed, float64 `(K, K)`, and b, float64 `(K,)`."""

    weights: Doubles
    intercept: Doubles


class AffineCalibrator(BaseModel):
    """q = softmax(W ln p + b) for K classes.

    Attributes:
        kind: by which rule it was fitted.
        weights: W, K rows of K.
        intercept: b, K numbers.
        rows: rows it was fitted on, 0 if it was not fitted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Kind
    weights: tuple[tuple[float, ...], ...]
    intercept: tuple[float, ...]
    rows: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        classes = self.classes
        if classes < 2 or any(len(row) != classes for row in self.weights) or len(self.weights) != classes:
            raise ValueError(f"weights must be K rows of K and intercept K numbers, K >= 2; intercept has {classes}")
        if classes == 2 and min(self.slopes[:2]) < 0:
            raise ValueError(f"slopes are {self.slopes[0]:g} and {self.slopes[1]:g}, the roadwork score must not fall")
        return self

    @classmethod
    def identity(cls, classes: int) -> Self:
        """The calibrator that changes nothing."""
        weights = tuple(tuple(float(row == column) for column in range(classes)) for row in range(classes))
        return cls(kind="dirichlet", weights=weights, intercept=(0.0,) * classes)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.intercept)

    @cached_property
    def slopes(self) -> tuple[float, float, float]:
        """a, b and c of two classes: the log-odds of class 1 are a ln p1 - b ln p0 + c."""
        (w00, w01), (w10, w11) = self.weights
        return w11 - w01, w00 - w10, self.intercept[1] - self.intercept[0]

    @cached_property
    def _map(self) -> _Map:
        return _Map(np.array(self.weights).T.copy(), np.array(self.intercept))

    def probabilities(self, logits: NDArray[np.floating]) -> Doubles:
        """Calibrated probability of every class, float64 `(N, K)`.

        Args:
            logits: before calibration, `(N, K)`.

        Raises:
            CalibrationError: the logits have another number of classes.
        """
        if logits.ndim != 2 or logits.shape[1] != self.classes:
            raise CalibrationError(f"logits have shape {logits.shape}, the calibrator is for (N, {self.classes})")
        return np.exp(_log_softmax(_log_softmax(logits) @ self._map.weights + self._map.intercept))


class HeadCalibrator(BaseModel):
    """Every calibrator that was fitted for a head, and the one that answers.

    Attributes:
        answers: kind of the one that answers.
        fitted: one of each kind.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    answers: Kind
    fitted: tuple[AffineCalibrator, ...]

    @model_validator(mode="after")
    def _has_what_answers(self) -> Self:
        kinds = [calibrator.kind for calibrator in self.fitted]
        if kinds.count(self.answers) != 1 or len(set(kinds)) != len(kinds):
            raise ValueError(f"one calibrator of each kind, and {self.answers} among them, expected; there are {kinds}")
        if len({calibrator.classes for calibrator in self.fitted}) != 1:
            raise ValueError("the calibrators of one head must have the same classes")
        return self

    @classmethod
    def of(cls, calibrator: AffineCalibrator) -> Self:
        """A head with a single calibrator."""
        return cls(answers=calibrator.kind, fitted=(calibrator,))

    def by_kind(self, kind: Kind) -> AffineCalibrator:
        """The calibrator of a kind.

        Raises:
            CalibrationError: there is none.
        """
        for calibrator in self.fitted:
            if calibrator.kind == kind:
                return calibrator
        raise CalibrationError(f"no {kind} calibrator; there are {', '.join(item.kind for item in self.fitted)}")

    @cached_property
    def answering(self) -> AffineCalibrator:
        """The calibrator that answers."""
        return self.by_kind(self.answers)


class ProbabilityCalibrator(Artifact):
    """`calibrator.json`: the calibrators of every head; without arguments, the identity for the main head.

    Attributes:
        heads: by name of the head; `class` is the main one, whose class 1 is roadwork.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    heads: dict[str, HeadCalibrator] = Field(
        default_factory=lambda: {MAIN_HEAD: HeadCalibrator.of(AffineCalibrator.identity(2))}
    )

    @model_validator(mode="after")
    def _has_a_main_head(self) -> Self:
        if MAIN_HEAD not in self.heads or self.heads[MAIN_HEAD].answering.classes != 2:
            raise ValueError(f"a head {MAIN_HEAD!r} of two classes is missing")
        return self

    @classmethod
    def of_slopes(cls, a: float, b: float, c: float = 0.0, *, rows: int = 0) -> Self:
        """For the main head alone: the log-odds of roadwork are a ln p1 - b ln p0 + c.

        Args:
            a: weight of the log-probability of roadwork, at least 0.
            b: weight of the log-probability of no roadwork, at least 0.
            c: intercept.
            rows: rows it was fitted on.
        """
        calibrator = AffineCalibrator(kind="beta", weights=((b, 0.0), (0.0, a)), intercept=(0.0, c), rows=rows)
        return cls(heads={MAIN_HEAD: HeadCalibrator.of(calibrator)})

    def probability(self, outputs: Stage1Outputs) -> Doubles:
        """Calibrated probability of roadwork, float64 `(N,)`."""
        a, b, c = self._main_slopes
        score = outputs.roadwork_score.astype(np.float64)
        calibrated: Doubles = expit(a * log_expit(score) - b * log_expit(-score) + c)
        return calibrated

    def head_probabilities(self, name: str, logits: NDArray[np.floating]) -> Doubles:
        """Calibrated probability of every class of a head, float64 `(N, K)`.

        Args:
            name: the head.
            logits: its logits, `(N, K)`.

        Raises:
            CalibrationError: no such head was calibrated, or it has another number of classes.
        """
        if name not in self.heads:
            raise CalibrationError(f"no calibrator for head {name!r}; there are {', '.join(sorted(self.heads))}")
        return self.heads[name].answering.probabilities(logits)

    @cached_property
    def _main_slopes(self) -> tuple[float, float, float]:
        return self.heads[MAIN_HEAD].answering.slopes


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
    label = _known(labels, rows, classes)
    log_p = _log_softmax(logits).T.copy()
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
        log_q = _log_softmax(weights @ log_p + intercept[:, None], axis=0)
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


def answer_probability(probability: NDArray[np.float64], decisions: Decisions) -> NDArray[np.float64]:
    """What is answered: the calibrated probability, kept on the side of the label an image exits with.

    Validators round the answer, half to 0, so an exit with label 1 answers more than one half.
    """
    above_half = np.nextafter(0.5, 1.0) + 1e-6
    answer = np.where(decisions.exit_label == 0, np.minimum(probability, 0.5), probability)
    kept: NDArray[np.float64] = np.where(decisions.exit_label == 1, np.maximum(answer, above_half), answer)
    return kept


class CalibrationBin(BaseModel):
    """Rows of about one probability.

    Attributes:
        probability: their mean probability.
        observed: share of them of which it came true.
        count: their number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    probability: float
    observed: float
    count: int


class CalibrationQuality(BaseModel):
    """How good probabilities are, smaller is better.

    Attributes:
        rows: rows that they were compared with.
        negative_log_likelihood: mean of -ln of the probability given to what came, of at least 1e-12.
        brier: mean squared distance from what came, for a whole row of probabilities summed over its classes.
        expected_calibration_error: mean distance of `bins` from the diagonal, over the rows.
        bins: ten bins of equal width, without the empty ones.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    negative_log_likelihood: float
    brier: float
    expected_calibration_error: float
    bins: tuple[CalibrationBin, ...]


def judge(probabilities: NDArray[np.floating], labels: NDArray[np.generic]) -> CalibrationQuality:
    """Compare probabilities with what came.

    Args:
        probabilities: of class 1, `(N,)`, or of every class, `(N, K)`; of these, the bins are by the largest.
        labels: class of each row, `(N,)`.

    Raises:
        CalibrationError: labels are missing or unknown.
        ValueError: there are no rows, or a probability is not in [0, 1].
    """
    every = np.asarray(probabilities, np.float64)
    pairs = every if every.ndim == 2 else np.column_stack([1 - every, every])
    rows, classes = pairs.shape
    label = _known(labels, rows, classes, several=False)
    came = np.eye(classes)[label]
    if every.ndim == 2:
        found = reliability(every.max(axis=1), every.argmax(axis=1) == label)
        squares = ((every - came) ** 2).sum(axis=1)
    else:
        found = reliability(every, label)
        squares = (every - label) ** 2
    gaps = np.abs(found.probability - found.observed)
    return CalibrationQuality(
        rows=rows,
        negative_log_likelihood=float(-np.mean(np.log(np.maximum(pairs[came == 1], LEAST_PROBABILITY)))),
        brier=float(squares.mean()),
        expected_calibration_error=float(gaps @ found.count / rows),
        bins=tuple(
            CalibrationBin(probability=probability, observed=observed, count=count)
            for probability, observed, count in zip(
                found.probability.tolist(), found.observed.tolist(), found.count.tolist(), strict=True
            )
        ),
    )


def _log_softmax(logits: NDArray[np.floating], *, axis: int = 1) -> Doubles:
    values = np.asarray(logits, np.float64)
    return values - np.logaddexp.reduce(values, axis=axis, keepdims=True)


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


def _known(labels: NDArray[np.generic], rows: int, classes: int, *, several: bool = True) -> NDArray[np.intp]:
    """Labels as class numbers, or a CalibrationError; there must be two classes of them to fit anything."""
    values = np.asarray(labels, np.float64)
    if values.shape != (rows,):
        raise CalibrationError(f"{rows} rows and labels of shape {values.shape}")
    missing = int(np.isnan(values).sum())
    if missing:
        raise CalibrationError(f"{missing} of {rows} labels are NaN")
    outside = int(np.sum(~np.isin(values, np.arange(classes))))
    if outside:
        raise CalibrationError(f"{outside} of {rows} labels are not among the classes 0..{classes - 1}")
    if several and len(np.unique(values)) < 2:
        raise CalibrationError(f"{rows} rows of a single class calibrate nothing, at least two classes are needed")
    return values.astype(np.intp)

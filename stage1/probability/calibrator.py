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

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from scipy.special import expit, log_expit

from stage1.artifacts import Artifact
from stage1.decisions import Decisions
from stage1.errors import CalibrationError
from stage1.outputs import Stage1Outputs

Kind = Literal["dirichlet", "beta", "temperature"]
Doubles = NDArray[np.float64]

MAIN_HEAD = "class"


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
        return np.exp(log_softmax(log_softmax(logits) @ self._map.weights + self._map.intercept))


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

    def probability(self, outputs: Stage1Outputs) -> Doubles:
        """Calibrated probability of roadwork, float64 `(N,)`."""
        a, b, c = self._main_slopes
        score = outputs.roadwork_score.astype(np.float64)
        calibrated: Doubles = expit(a * log_expit(score) - b * log_expit(-score) + c)
        return calibrated

    @cached_property
    def _main_slopes(self) -> tuple[float, float, float]:
        return self.heads[MAIN_HEAD].answering.slopes


def answer_probability(probability: NDArray[np.float64], decisions: Decisions) -> NDArray[np.float64]:
    """What is answered: the calibrated probability, kept on the side of the label an image exits with.

    Validators round the answer, half to 0, so an exit with label 1 answers more than one half.
    """
    above_half = np.nextafter(0.5, 1.0) + 1e-6
    answer = np.where(decisions.exit_label == 0, np.minimum(probability, 0.5), probability)
    kept: NDArray[np.float64] = np.where(decisions.exit_label == 1, np.maximum(answer, above_half), answer)
    return kept


def log_softmax(logits: NDArray[np.floating], *, axis: int = 1) -> Doubles:
    """Logarithm of the softmax along an axis, float64."""
    values = np.asarray(logits, np.float64)
    return values - np.logaddexp.reduce(values, axis=axis, keepdims=True)


def checked_labels(labels: NDArray[np.generic], rows: int, classes: int, *, several: bool = True) -> NDArray[np.intp]:
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

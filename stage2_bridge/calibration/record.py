"""`stage2.json`: what a Stage-2 server was found to be worth, bound to that very server."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from stage1.artifacts import Artifact
from stage1.probability.answer_quality import AnswerQuality, SubgroupQuality
from stage1.probability.calibrator import HeadCalibrator
from stage1.probability.server_score import ScoreCalibrator
from stage2_bridge.client import ServerIdentity

# Rows of each class without which the hand-offs alone say too little of the server.
LEAST_ROWS = 20
SHARES = 101
# No gain in accuracy is above 1/2 or below -1.
NEVER, ALWAYS = 1.0, -1.0


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class GainTable(_Part):
    """What handing an image on is expected to gain, by what Stage-1 says of it.

    Attributes:
        probability: calibrated probabilities of Stage-1, rising from 0 to 1, K of them.
        expected: expected gain in accuracy at each, in [-1, 1]; in between it is interpolated.
        levels: gains that equally spaced shares of the hand-offs of val_select reach, from the share 0 to the share 1,
            falling.
    """

    probability: tuple[float, ...] = Field(min_length=2)
    expected: tuple[float, ...]
    levels: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if len(self.expected) != len(self.probability):
            raise ValueError(f"{len(self.probability)} probabilities and {len(self.expected)} gains")
        if (self.probability[0], self.probability[-1]) != (0.0, 1.0) or np.any(np.diff(self.probability) <= 0):
            raise ValueError("the probabilities must rise from 0 to 1")
        if np.any(np.diff(self.levels) > 0):
            raise ValueError("the levels must not rise")
        return self

    @classmethod
    def of(
        cls,
        stage1: NDArray[np.float64],
        stage2: NDArray[np.float64],
        labels: NDArray[np.integer],
        deferred: NDArray[np.bool_],
    ) -> Self:
        """The table of rows of val_select.

        Stage-2 is taken to be right about a share of the roadwork and about a share of the rest, whatever Stage-1 says
        of the image. Both are counted on what is handed on, because that is harder than the rest, and on all rows where
        that is less than twenty images of a class. With p the probability that Stage-1 gives, the gain is then
        p sensitivity + (1 - p) specificity - max(p, 1 - p).

        Args:
            stage1: calibrated probabilities of Stage-1, `(N,)`.
            stage2: calibrated probabilities of Stage-2, `(N,)`.
            labels: 0 or 1, `(N,)`.
            deferred: the rows that the policy hands on, `(N,)`.
        """
        truth = np.asarray(labels) == 1
        right = (stage2 > 0.5) == truth
        counted = (
            deferred if min((deferred & truth).sum(), (deferred & ~truth).sum()) >= LEAST_ROWS else np.ones_like(truth)
        )
        # One more of each, so that a few rows do not make a server infallible.
        sensitivity, specificity = (
            (float((right & among).sum()) + 1) / (float(among.sum()) + 2)
            for among in (counted & truth, counted & ~truth)
        )
        knots = (0.0, 0.5, 1.0)
        expected = tuple(p * sensitivity + (1 - p) * specificity - max(p, 1 - p) for p in knots)
        handed_on = stage1[deferred] if deferred.any() else stage1
        gains = np.interp(handed_on, knots, expected)
        levels = np.quantile(gains, np.linspace(1, 0, SHARES))
        return cls(probability=knots, expected=expected, levels=tuple(np.minimum.accumulate(levels).tolist()))

    def gain(self, p: float) -> float:
        """Expected gain in accuracy of handing on an image, in [-1, 1]; below 0 Stage-1 would do better.

        Args:
            p: calibrated probability of roadwork that Stage-1 gives it.
        """
        return float(np.interp(p, self.probability, self.expected))

    def threshold(self, share: float) -> float:
        """The gain that this share of the hand-offs of val_select reaches: hand on what gains at least so much.

        Args:
            share: of the hand-offs; at 0 nothing reaches it, and at 1 everything does.
        """
        if share <= 0:
            return NEVER
        if share >= 1:
            return ALWAYS
        return float(np.interp(share, np.linspace(0, 1, len(self.levels)), self.levels))


class Latency(_Part):
    """How long answers took.

    Attributes:
        calls: answers that were timed.
        at_a_time: images that were asked about at a time.
        mean_ms: mean.
        p50_ms: median.
        p99_ms: 99th percentile.
    """

    calls: int
    at_a_time: int
    mean_ms: float
    p50_ms: float
    p99_ms: float


class Stage2Record(Artifact):
    """`stage2.json`: of one server, by the rows of one bundle.

    Attributes:
        server: the server that was asked; the calibrator speaks of no other.
        bundle: id of the bundle whose sets and whose Stage-1 it was asked with.
        stream: the pictures that it was sent; see `stage1.certificate.stream`.
        data_sha256: hash of the data.
        evaluated_at: UTC, ISO 8601.
        floor: scores are kept this far from 0 and 1 before the calibrator.
        calibrator: fitted on the scores of val_select; None where these could fit none.
        raw: its scores on the test rows as they are.
        answers: its calibrated answers on the test rows.
        stage1: Stage-1's calibrated answers on the same rows.
        subgroups: its calibrated answers in parts of the test rows.
        refused: test rows that it could not answer.
        latency: of the answers on both sets.
        order_gap: how far its score moves, in the mean, where the question names its two answers the other way round;
            None where the question names none.
        price: of handing an image on, in the mean, in whatever money the operator counts; None if nobody named one.
        gain: what handing on is worth, from val_select.
        notes: what else a person should know, one sentence each.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    server: ServerIdentity
    bundle: str
    stream: str
    data_sha256: str
    evaluated_at: str
    floor: float = Field(gt=0, lt=0.5)
    calibrator: ScoreCalibrator | None
    raw: AnswerQuality
    answers: AnswerQuality
    stage1: AnswerQuality
    subgroups: tuple[SubgroupQuality, ...] = ()
    refused: int = 0
    latency: Latency
    order_gap: float | None = None
    price: float | None = None
    gain: GainTable
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _two_classes(self) -> Self:
        if isinstance(self.calibrator, HeadCalibrator) and self.calibrator.answering.classes != 2:
            raise ValueError("the calibrator of a server has two classes")
        return self

    def speaks_of(self, server: ServerIdentity) -> bool:
        """Whether scores of a server mean what those of the one that was asked did; its name decides nothing."""
        asked = self.server
        return (server.kind, server.model, server.version, server.fingerprint) == (
            asked.kind,
            asked.model,
            asked.version,
            asked.fingerprint,
        )

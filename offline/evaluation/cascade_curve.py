"""The whole cascade on the test rows: both stages together, at the points where it may be run.

An image that exits is answered by Stage-1, and one that is handed on by Stage-2; what Stage-2 cannot answer is answered
by Stage-1, as a live miner does it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from offline.evaluation.stage2_answers import RowScores
from stage1.artifacts import Artifact
from stage1.decisions import Decisions
from stage1.metrics.bootstrap import group_weights
from stage1.metrics.estimate import Estimate
from stage1.metrics.reward import challenge_rewards

PointName = Literal["certified", "softmax", "all_to_stage2", "none"]
COVERAGES = 21
# Of a stream, for the reward of the rows as they are, and of a replicate: the reward depends on the order.
CHALLENGES, CHALLENGES_OF_A_REPLICATE, LEAST_ORDERS = 20_000, 2_000, 5
MEASURES = ("accuracy", "mcc", "misses", "false_alarms")

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CascadePoint(_Part):
    """The cascade at one point.

    Attributes:
        name: of it; None for a point of the curve.
        exit_coverage: share of the rows that exit; the others are handed on.
        accuracy: share of right answers.
        mcc: Matthews correlation of the answers.
        reward: what the subnet pays for them, over streams of these rows in random order.
        misses: share of the roadwork that is answered 0.
        false_alarms: share of the rest that is answered 1.
        gained: reward less that of the certified policy, in the same replicates.
        stage2_ms: mean time that an image spends in Stage-2, 0 for one that exits.
        stage2_ms_p99: its 99th percentile.
        cost: of a thousand images; None if nobody named a price.
    """

    name: PointName | None = None
    exit_coverage: float
    accuracy: Estimate
    mcc: Estimate
    reward: Estimate
    misses: Estimate
    false_alarms: Estimate
    gained: Estimate
    stage2_ms: float
    stage2_ms_p99: float
    cost: float | None


class OnDeferred(_Part):
    """Both stages on what the certified policy hands on.

    Attributes:
        rows: how many they are.
        stage1: accuracy of Stage-1.
        stage2: accuracy of Stage-2.
        gained: Stage-2 less Stage-1, in the same replicates.
    """

    rows: int
    stage1: Estimate
    stage2: Estimate
    gained: Estimate


class WholeCascade(_Part):
    """The cascade with one server.

    Attributes:
        server: its name.
        model: its model and version.
        select_rows: rows of val_select that its calibrator was fitted on; 0 if none was.
        rows: test rows that it was asked about, which all of this is about.
        unasked: test rows that it was never asked about.
        refused: rows that it could not answer.
        positives: rows with roadwork.
        groups: groups among the rows.
        points: certified policy, softmax baseline, everything to Stage-2, nothing to Stage-2.
        curve: rising exit coverage from 0 to 1; the safest rows exit first, by what the gate asks.
        slope: change of the reward with one more per cent of exits, around the certified policy.
        deferred: both stages on what is handed on; None where nothing is.
    """

    server: str
    model: str
    select_rows: int
    rows: int
    unasked: int
    refused: int
    positives: int
    groups: int
    points: tuple[CascadePoint, ...]
    curve: tuple[CascadePoint, ...]
    slope: Estimate
    deferred: OnDeferred | None

    def point(self, name: PointName) -> CascadePoint:
        """One of the points."""
        return next(one for one in self.points if one.name == name)

    @property
    def best(self) -> CascadePoint:
        """The point that earns most on these rows."""
        return max(self.points, key=lambda one: one.reward.value or 0.0)

    @property
    def best_of_curve(self) -> CascadePoint:
        """The point of the curve that earns most on these rows."""
        return max(self.curve, key=lambda one: one.reward.value or 0.0)


class CascadeFile(Artifact):
    """`cascade.json`.

    Attributes:
        cascades: one for each server that was asked.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    cascades: tuple[WholeCascade, ...] = ()


@dataclass(frozen=True, eq=False)
class Stage1Answers:
    """What Stage-1 says of N rows.

    Attributes:
        labels: 0 or 1, `(N,)`.
        groups: group of each row, `(N,)`.
        probability: calibrated, `(N,)`.
        confidence: how far each row is to be trusted, by what the gate asks, `(N,)`.
        certified: what the certified policy decides.
        softmax: what the softmax baseline decides.
    """

    labels: NDArray[np.int8]
    groups: NDArray[np.str_]
    probability: Doubles
    confidence: NDArray[np.floating]
    certified: Decisions
    softmax: Decisions

    def pick(self, index: Mask) -> Stage1Answers:
        """Some of the rows."""
        certified, softmax = (Decisions(d.exit_label[index], d.level[index]) for d in (self.certified, self.softmax))
        return Stage1Answers(
            self.labels[index],
            self.groups[index],
            self.probability[index],
            self.confidence[index],
            certified,
            softmax,
        )


@dataclass(frozen=True)
class CurveSettings:
    """How much to compute.

    Attributes:
        repetitions: replicates of the group bootstrap; 0 for no intervals.
        seed: of its draws and of the orders of challenges.
    """

    repetitions: int = 400
    seed: int = 0


def whole_cascade(
    stage1: Stage1Answers,
    scores: RowScores,
    stage2: Doubles,
    *,
    server: str,
    model: str,
    select_rows: int,
    settings: CurveSettings | None = None,
) -> WholeCascade | None:
    """Join both stages on the test rows.

    Args:
        stage1: what Stage-1 says of them.
        scores: what the server said of them.
        stage2: its calibrated probabilities, `(N,)`; NaN where it gave none.
        server: its name.
        model: its model and version.
        select_rows: rows that its calibrator was fitted on.
        settings: how much to compute.

    Returns:
        None if it was asked about no row.
    """
    settings = settings or CurveSettings()
    asked = scores.asked
    if not asked.any():
        return None
    rows, known, probability = stage1.pick(asked), scores.pick(asked), stage2[asked]
    points = _points(rows, probability)
    names: list[PointName | None] = [*points.named, *([None] * COVERAGES)]
    replicates = _Replicates.of(points.answers, rows, settings)
    certified = names.index("certified")
    described = tuple(
        CascadePoint(
            name=name,
            exit_coverage=float(1 - points.handed_on[place].mean()),
            **{measure: replicates.estimate(measure, place) for measure in MEASURES},
            reward=replicates.estimate("reward", place),
            gained=replicates.difference("reward", place, certified),
            **_spent(points.handed_on[place], known),
        )
        for place, name in enumerate(names)
    )
    count = len(points.named)
    return WholeCascade(
        server=server,
        model=model,
        select_rows=select_rows,
        rows=len(rows.labels),
        unasked=int(np.sum(~asked)),
        refused=int(np.sum(~known.answered)),
        positives=int(rows.labels.sum()),
        groups=len(np.unique(rows.groups)),
        points=described[:count],
        curve=described[count:],
        slope=_slope(replicates, described[certified].exit_coverage, count),
        deferred=_on_deferred(rows, probability, points.handed_on[certified], settings),
    )


def _spent(handed_on: Mask, known: RowScores) -> Mapping[str, float | None]:
    """Time and money in Stage-2 for an image."""
    ms, costs = np.where(handed_on, known.ms, 0.0), known.cost[handed_on]
    priced = not np.isnan(known.cost).all()
    cost = float(np.nansum(costs)) / len(handed_on) * 1000 if priced else None
    return {"stage2_ms": float(ms.mean()), "stage2_ms_p99": float(np.quantile(ms, 0.99)), "cost": cost}


@dataclass(frozen=True, eq=False)
class _Points:
    """Answers at P points, bool `(P, N)`, true for roadwork, and which rows are handed on there, likewise."""

    named: tuple[PointName, ...]
    answers: Mask
    handed_on: Mask


def _points(rows: Stage1Answers, stage2: Doubles) -> _Points:
    first = rows.probability > 0.5
    second = np.where(np.isnan(stage2), first, stage2 > 0.5)
    count = len(first)
    place = np.empty(count, np.intp)
    place[np.argsort(-rows.confidence, kind="stable")] = np.arange(count)
    handed_on, answers = [], []
    for decisions in (rows.certified, rows.softmax):
        handed_on.append(~decisions.exits)
        answers.append(np.where(decisions.exits, decisions.exit_label == 1, second))
    shares = np.linspace(0, 1, COVERAGES)
    for exits in (np.zeros(count, bool), np.ones(count, bool), *(place < round(share * count) for share in shares)):
        handed_on.append(~exits)
        answers.append(np.where(exits, first, second))
    return _Points(("certified", "softmax", "all_to_stage2", "none"), np.stack(answers), np.stack(handed_on))


@dataclass(frozen=True, eq=False)
class _Replicates:
    """Each measure at each point: on the rows as they are, `(P,)`, and in every replicate, `(R, P)`."""

    values: dict[str, Doubles]
    samples: dict[str, Doubles] | None

    @classmethod
    def of(cls, answers: Mask, rows: Stage1Answers, settings: CurveSettings) -> _Replicates:
        """Compute them; every point is measured in the same replicates and the same orders."""
        rng = np.random.default_rng(settings.seed)
        truth = rows.labels == 1
        everything = np.arange(len(truth))
        orders = max(LEAST_ORDERS, math.ceil(CHALLENGES / len(truth)))
        values = _measured(answers, truth, np.ones(len(truth)))
        values["reward"] = _rewards(answers, truth, everything, orders, rng)
        if not settings.repetitions:
            return cls(values, None)
        samples: dict[str, list[Doubles]] = {name: [] for name in values}
        for weights in group_weights(rows.groups, settings.repetitions, rng):
            drawn = np.repeat(everything, weights.astype(np.intp))
            found = _measured(answers, truth, weights)
            found["reward"] = _rewards(answers, truth, drawn, math.ceil(CHALLENGES_OF_A_REPLICATE / len(drawn)), rng)
            for name, value in found.items():
                samples[name].append(value)
        return cls(values, {name: np.stack(every) for name, every in samples.items()})

    def estimate(self, measure: str, place: int) -> Estimate:
        """A measure at one point."""
        samples = None if self.samples is None else self.samples[measure][:, place]
        return Estimate.of(float(self.values[measure][place]), samples)

    def difference(self, measure: str, place: int, other: int, over: float = 1.0) -> Estimate:
        """A measure at one point less that at another, divided by a number."""

        def apart(values: Doubles) -> Doubles:
            found: Doubles = (values[..., place] - values[..., other]) / over
            return found

        samples = None if self.samples is None else apart(self.samples[measure])
        return Estimate.of(float(apart(self.values[measure])), samples)


def _measured(answers: Mask, truth: Mask, weights: Doubles) -> dict[str, Doubles]:
    """Accuracy, MCC, misses and false alarms of weighted rows at every point, `(P,)` each."""
    roadwork, rest = weights * truth, weights * ~truth
    hit, alarm = answers @ roadwork, answers @ rest
    positives, negatives = roadwork.sum(), rest.sum()
    missed, quiet = positives - hit, negatives - alarm
    scale = (hit + alarm) * positives * negatives * (missed + quiet)
    with np.errstate(invalid="ignore", divide="ignore"):
        mcc = np.where(scale > 0, (hit * quiet - alarm * missed) / np.sqrt(scale), 0.0)
        return {
            "accuracy": (hit + quiet) / (positives + negatives),
            "mcc": mcc,
            "misses": missed / positives,
            "false_alarms": alarm / negatives,
        }


def _rewards(answers: Mask, truth: Mask, rows: NDArray[np.intp], orders: int, rng: np.random.Generator) -> Doubles:
    """Mean reward of each point over streams of these rows in the same random orders, `(P,)`."""
    streams = rng.permuted(np.tile(rows, (orders, 1)), axis=1)
    labels = truth[streams].astype(np.int8)
    return np.array(
        [challenge_rewards(labels, one[streams].astype(np.float64)).reward.mean() for one in answers], np.float64
    )


def _slope(replicates: _Replicates, coverage: float, first: int) -> Estimate:
    """Change of the reward with one more per cent of exits, between the points of the curve around a coverage."""
    middle = min(max(round(coverage * (COVERAGES - 1)), 1), COVERAGES - 2)
    per_cent = 100 * 2 / (COVERAGES - 1)
    return replicates.difference("reward", first + middle + 1, first + middle - 1, per_cent)


def _on_deferred(rows: Stage1Answers, stage2: Doubles, handed_on: Mask, settings: CurveSettings) -> OnDeferred | None:
    both = handed_on & ~np.isnan(stage2)
    if not both.any():
        return None
    truth = rows.labels == 1
    right = np.stack([(rows.probability > 0.5) == truth, (stage2 > 0.5) == truth])
    rng = np.random.default_rng(settings.seed)

    def accuracy(weights: Doubles) -> Doubles:
        among = weights * both
        total = among.sum()
        return right @ among / total if total else np.full(2, np.nan)

    values = accuracy(np.ones(len(truth)))
    samples = None
    if settings.repetitions:
        samples = np.stack([accuracy(weights) for weights in group_weights(rows.groups, settings.repetitions, rng)])

    def estimate(column: int) -> Estimate:
        return Estimate.of(float(values[column]), None if samples is None else samples[:, column])

    gained = Estimate.of(float(values[1] - values[0]), None if samples is None else samples[:, 1] - samples[:, 0])
    return OnDeferred(rows=int(both.sum()), stage1=estimate(0), stage2=estimate(1), gained=gained)

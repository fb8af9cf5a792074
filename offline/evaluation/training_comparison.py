"""Ways of training side by side on the test rows, and what each step gained; descriptive, nothing here is certified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.artifacts import Artifact
from stage1.baselines.softmax import ThresholdPolicy
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.metrics.bootstrap import bootstrap, interval
from stage1.metrics.classification import weighted_mcc
from stage1.metrics.risk_coverage import Ranking
from stage1.outputs import Stage1Outputs
from stage1.policy import Policy, RulePolicy

LEVEL = 0.95
VariantName = Literal["baseline", "supervised", "cross_entropy", "unadapted", "final"]


class Spread(BaseModel):
    """A number with its 95% group-bootstrap interval.

    Attributes:
        value: on the rows as they are.
        lower: lower end.
        upper: upper end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    lower: float
    upper: float


class Variant(BaseModel):
    """A model that was trained in one way.

    Attributes:
        name: which way.
        accuracy: of Stage-1 alone.
        mcc: of Stage-1 alone.
        augrc: of the ranking by the selection score, of the baseline by its softmax.
        exit_coverage: share of the rows that exit: for the baseline by its fixed softmax thresholds, for the others by
            the rule that val_select would choose. Nothing certifies it.
        miss_rate: share of the roadwork that exits as no roadwork; None if no roadwork exits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: VariantName
    accuracy: Spread
    mcc: Spread
    augrc: Spread
    exit_coverage: float
    miss_rate: float | None


class Gain(BaseModel):
    """One variant minus another on the same rows, with the same bootstrap draws.

    Attributes:
        variant: the first.
        over: the second.
        exits: difference of the exit coverages at equal risk; above 0 is better. Each variant exits by the rule that
            val_select would choose for it at the risk that is to be certified.
        accuracy: difference at the cut of 0.5, which is nobody's exit rule.
        mcc: difference at that cut.
        augrc: difference; below 0 is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: VariantName
    over: VariantName
    exits: Spread
    accuracy: Spread
    mcc: Spread
    augrc: Spread


class TrainingComparison(Artifact):
    """`comparison.json`.

    Attributes:
        rows: test rows.
        groups: groups among them.
        variants: the ways of training; the last one is what is exported.
        gains: what each step gained over the simpler way.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    schema_version: int = 2

    rows: int
    groups: int
    variants: tuple[Variant, ...]
    gains: tuple[Gain, ...]


def compare(
    test: Mapping[VariantName, LabelledOutputs],
    val_select: Mapping[VariantName, LabelledOutputs],
    pairs: Sequence[tuple[VariantName, VariantName]],
    settings: CalibrationSettings,
    *,
    repetitions: int,
    seed: int,
) -> TrainingComparison:
    """Set variants side by side.

    Args:
        test: outputs of each variant for the same test rows, in the order to show them.
        val_select: outputs of each for the rows of val_select, which choose its exit rule.
        pairs: which one to compare with which.
        settings: how a rule is chosen.
        repetitions: replicates of the group bootstrap.
        seed: of its draws.
    """
    rows = next(iter(test.values()))
    return TrainingComparison(
        rows=len(rows),
        groups=len(set(rows.groups)),
        variants=tuple(
            _variant(name, outputs, _policy(name, val_select[name], settings), repetitions, seed)
            for name, outputs in test.items()
        ),
        gains=tuple(_gain(first, second, test, val_select, settings, repetitions, seed) for first, second in pairs),
    )


def _policy(name: VariantName, val_select: LabelledOutputs, settings: CalibrationSettings) -> Policy:
    if name == "baseline":
        return ThresholdPolicy()
    return RulePolicy(select(val_select, settings).chosen)


class _Metrics:
    """The metrics of one model, for any weights of the rows."""

    def __init__(self, name: VariantName, data: LabelledOutputs) -> None:
        self._labels, self._predictions = data.labels, _predictions(data.outputs)
        self._losses = (self._predictions != self._labels).astype(np.float64)
        self._ranking = Ranking.of(_ranked(name, data).outputs.select_score, self._losses)

    def __call__(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        error = float(weights @ self._losses / weights.sum())
        mcc = weighted_mcc(self._labels, self._predictions, weights)
        return np.array([1 - error, mcc, self._ranking.augrc(weights)])


def _predictions(outputs: Stage1Outputs) -> NDArray[np.int8]:
    return (outputs.roadwork_score > 0).astype(np.int8)


def _variant(name: VariantName, data: LabelledOutputs, policy: Policy, repetitions: int, seed: int) -> Variant:
    accuracy, mcc, augrc = _spreads(_Metrics(name, data), data.groups, repetitions, seed)
    decided = policy.decide(data.outputs)
    positive = data.positive & decided.exits
    missed = positive & (decided.exit_label == 0)
    return Variant(
        name=name,
        accuracy=accuracy,
        mcc=mcc,
        augrc=augrc,
        exit_coverage=float(decided.exits.mean()),
        miss_rate=float(missed.sum() / positive.sum()) if positive.any() else None,
    )


def _gain(
    first: VariantName,
    second: VariantName,
    test: Mapping[VariantName, LabelledOutputs],
    val_select: Mapping[VariantName, LabelledOutputs],
    settings: CalibrationSettings,
    repetitions: int,
    seed: int,
) -> Gain:
    ours, theirs, groups = _Metrics(first, test[first]), _Metrics(second, test[second]), test[first].groups
    more, fewer = (_exits_at_risk(name, test[name], val_select[name], settings) for name in (first, second))

    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        exits = float(weights @ (more.astype(np.float64) - fewer) / weights.sum())
        return np.append(exits, ours(weights) - theirs(weights))

    exits, accuracy, mcc, augrc = _spreads(difference, groups, repetitions, seed)
    return Gain(variant=first, over=second, exits=exits, accuracy=accuracy, mcc=mcc, augrc=augrc)


def _exits_at_risk(
    name: VariantName, test: LabelledOutputs, val_select: LabelledOutputs, settings: CalibrationSettings
) -> NDArray[np.bool_]:
    """Test rows that exit by the rule that val_select would choose, bool `(N,)`."""
    chosen = RulePolicy(select(_ranked(name, val_select), settings).chosen)
    return chosen.decide(_ranked(name, test).outputs).exits


def _ranked(name: VariantName, data: LabelledOutputs) -> LabelledOutputs:
    """The rows with the score that this variant is trusted by: the baseline has no trained selection head."""
    if name != "baseline":
        return data
    outputs = data.outputs
    return replace(data, outputs=replace(outputs, select_score=np.abs(outputs.roadwork_score)))


def _spreads(
    metrics: Callable[[NDArray[np.float64]], NDArray[np.float64]], groups: Sequence[str], repetitions: int, seed: int
) -> list[Spread]:
    """Each of the metrics with its interval."""
    plain = metrics(np.ones(len(groups)))
    samples = bootstrap(metrics, groups, repetitions, np.random.default_rng(seed))
    ends = [interval(samples[:, column], LEVEL) for column in range(len(plain))]
    return [
        Spread(value=float(value), lower=end.lower, upper=end.upper) for value, end in zip(plain, ends, strict=True)
    ]

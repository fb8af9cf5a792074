"""Ways of training side by side on the test rows, and what each step gained; descriptive, nothing here is certified.

Every model answers as the product does: by a probability that is calibrated, here on val_select. What decides which is
better is how much exits at equal risk. There each model has the thresholds that give it the same miss rate on the test
rows, found anew in every resample, so nothing depends on where a training has moved its scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from offline.evaluation.evaluate import confidence_of
from stage1.artifacts import Artifact
from stage1.baselines.softmax import ThresholdPolicy
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.algorithms import Claim, certify_chains
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.decisions import Decisions
from stage1.metrics.bootstrap import bootstrap, interval
from stage1.metrics.classification import weighted_mcc
from stage1.metrics.exits_at_risk import ExitShares
from stage1.metrics.risk_coverage import Ranking
from stage1.policy import RulePolicy
from stage1.probability.fit import fit_calibrator

LEVEL = 0.95
RISKS = (0.02, 0.05, 0.10)
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


class AtRisk(BaseModel):
    """What exits at one risk, or the difference of that.

    Attributes:
        risk: miss rate on exits, on the test rows.
        exits: share of the rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    risk: float
    exits: Spread


class Variant(BaseModel):
    """A model that was trained in one way.

    Attributes:
        name: which way.
        accuracy: of Stage-1 alone.
        mcc: of Stage-1 alone.
        augrc: of the ranking by what the gate asks, of the baseline by its softmax.
        exits: share of the rows that exit at each risk of `AtRisk`.
        certified: share of the rows that exits by a rule that val_select chooses and these very rows certify, 0 if they
            certify none. It serves nothing; it says what the labels of these rows are enough to prove.
        exit_coverage: share of the rows that exit: for the baseline by its fixed softmax thresholds, for the others by
            the rule that val_select would choose. Nothing certifies it.
        miss_rate: share of the roadwork that exits as no roadwork; None if no roadwork exits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: VariantName
    accuracy: Spread
    mcc: Spread
    augrc: Spread
    exits: tuple[AtRisk, ...]
    certified: float
    exit_coverage: float
    miss_rate: float | None


class Gain(BaseModel):
    """One variant minus another on the same rows, with the same bootstrap draws.

    Attributes:
        variant: the first.
        over: the second.
        alpha: the risk that is to be certified, one of those of `exits`; the exits there decide which is better.
        exits: difference of what exits at equal risk; above 0 is better.
        certified: difference of `Variant.certified`; the rules stay as they are in every resample.
        accuracy: difference at a calibrated probability of 0.5, which is nobody's exit rule.
        mcc: difference at that probability.
        augrc: difference; below 0 is better.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    variant: VariantName
    over: VariantName
    alpha: float
    exits: tuple[AtRisk, ...]
    certified: Spread
    accuracy: Spread
    mcc: Spread
    augrc: Spread

    @property
    def deciding(self) -> Spread:
        """Difference of what exits at the risk that is to be certified."""
        return next(found.exits for found in self.exits if found.risk == self.alpha)


class TrainingComparison(Artifact):
    """`comparison.json`.

    Attributes:
        rows: test rows.
        groups: groups among them.
        variants: the ways of training; the last one is what is exported.
        gains: what each step gained over the simpler way.
    """

    SCHEMA_VERSION: ClassVar[int] = 3
    schema_version: int = 3

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
    judged = {name: _Judged.of(name, test[name], val_select[name], settings) for name in test}
    return TrainingComparison(
        rows=len(rows),
        groups=len(set(rows.groups)),
        variants=tuple(_variant(model, repetitions, seed) for model in judged.values()),
        gains=tuple(_gain(judged[first], judged[second], repetitions, seed) for first, second in pairs),
    )


def _risks(settings: CalibrationSettings) -> NDArray[np.float64]:
    """Risks at which exits are compared, ascending."""
    return np.array(sorted({*RISKS, settings.alpha}))


@dataclass(frozen=True)
class _Judged:
    """One model on the test rows.

    Attributes:
        name: how it was trained.
        test: the rows.
        settings: how a rule is chosen.
        decided: what exits by the rule that val_select would choose, or by the baseline's own.
        certified: rows that exit by a rule that these rows certify, `(N,)`.
        predictions: the answer to each row, `(N,)`.
        ranking: by how far the answers are to be trusted.
        shares: what exits at equal risk.
    """

    name: VariantName
    test: LabelledOutputs
    settings: CalibrationSettings
    decided: Decisions
    certified: NDArray[np.bool_]
    predictions: NDArray[np.int8]
    ranking: Ranking
    shares: ExitShares

    @classmethod
    def of(
        cls, name: VariantName, test: LabelledOutputs, val_select: LabelledOutputs, settings: CalibrationSettings
    ) -> Self:
        """Judge a model.

        Args:
            name: how it was trained.
            test: its outputs for the test rows.
            val_select: for the rows that choose its rule and calibrate its probability.
            settings: how a rule is chosen.
        """
        if name == "baseline":
            # It has no trained selection head.
            settings = settings.model_copy(update={"gate": "margin"})
        rule = select(val_select, settings).chosen
        policy = ThresholdPolicy() if name == "baseline" else RulePolicy(rule)
        probability = fit_calibrator(val_select.outputs, val_select.labels).probability(test.outputs)
        predictions = (probability > 0.5).astype(np.int8)
        confidence = confidence_of(test, probability, settings.gate)
        return cls(
            name=name,
            test=test,
            settings=settings,
            decided=policy.decide(test.outputs),
            certified=_certified(test, val_select, settings),
            predictions=predictions,
            ranking=Ranking.of(confidence, (predictions != test.labels).astype(np.float64)),
            shares=ExitShares.of(test.outputs.roadwork_score, test.labels, settings.false_alarm_rate),
        )

    def measured(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Accuracy, MCC, AUGRC, certified coverage and the exits at each risk, for any weights of the rows."""
        wrong = self.predictions != self.test.labels
        total = weights.sum()
        plain = [
            1 - float(weights @ wrong) / total,
            weighted_mcc(self.test.labels, self.predictions, weights),
            self.ranking.augrc(weights),
            float(weights @ self.certified) / total,
        ]
        return np.append(plain, self.shares.at(_risks(self.settings), weights))


def _certified(test: LabelledOutputs, val_select: LabelledOutputs, settings: CalibrationSettings) -> NDArray[np.bool_]:
    """Rows that exit by the rule that the climb of algorithm B certifies on the test rows, bool `(N,)`."""
    plain = settings.model_copy(update={"mode": "risk", "algorithm": "B", "multiplicity": "chains", "also": {}})
    claims = [Claim(plain.risk, plain.alpha, plain.delta)]
    found = certify_chains(test, test.units(plain.unit, plain.seed), select(val_select, plain), claims, plain)
    return RulePolicy(found.rule).decide(test.outputs).exits


def _at_risks(settings: CalibrationSettings, found: Sequence[Spread]) -> tuple[AtRisk, ...]:
    risks = _risks(settings).tolist()
    return tuple(AtRisk(risk=risk, exits=exits) for risk, exits in zip(risks, found, strict=True))


def _variant(model: _Judged, repetitions: int, seed: int) -> Variant:
    accuracy, mcc, augrc, certified, *exits = _spreads(model.measured, model.test.groups, repetitions, seed)
    positive = model.test.positive & model.decided.exits
    missed = positive & (model.decided.exit_label == 0)
    return Variant(
        name=model.name,
        accuracy=accuracy,
        mcc=mcc,
        augrc=augrc,
        exits=_at_risks(model.settings, exits),
        certified=certified.value,
        exit_coverage=float(model.decided.exits.mean()),
        miss_rate=float(missed.sum() / positive.sum()) if positive.any() else None,
    )


def _gain(ours: _Judged, theirs: _Judged, repetitions: int, seed: int) -> Gain:
    def difference(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return ours.measured(weights) - theirs.measured(weights)

    accuracy, mcc, augrc, certified, *exits = _spreads(difference, ours.test.groups, repetitions, seed)
    return Gain(
        variant=ours.name,
        over=theirs.name,
        alpha=ours.settings.alpha,
        exits=_at_risks(ours.settings, exits),
        certified=certified,
        accuracy=accuracy,
        mcc=mcc,
        augrc=augrc,
    )


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

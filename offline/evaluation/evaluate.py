"""Selective evaluation on the test rows: the certified policy, and what else there is beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from offline.evaluation.policy_comparison import (
    PolicyReport,
    SubgroupReport,
    contenders,
    judge_policy,
    mean_reward,
    subgroups,
)
from offline.evaluation.stream_cells import CellReport
from stage1.artifacts import Artifact
from stage1.baselines.literature import ReferenceRules
from stage1.baselines.softmax import Thresholds
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.decisions import Decisions, Level
from stage1.metrics import risk_coverage
from stage1.metrics.bootstrap import bootstrap, curve_band, interval, paired_difference, rate
from stage1.metrics.classification import matthews_correlation, weighted_mcc
from stage1.metrics.estimate import LEVEL, Estimate
from stage1.outputs import GateScore
from stage1.probability.calibrator import MAIN_HEAD, Kind, ProbabilityCalibrator
from stage1.probability.quality import CalibrationQuality, judge

CURVE_COVERAGES = np.linspace(0.02, 1.0, 50)
WORKING_COVERAGES = (0.5, 0.8, 0.9)
MISTAKES = 12


@dataclass(frozen=True)
class EvaluationSettings:
    """How much to compute.

    Attributes:
        repetitions: replicates of the group bootstrap; 0 for no intervals.
        seed: seed of its draws.
    """

    repetitions: int = 1000
    seed: int = 0


class CurvePoint(BaseModel):
    """A working point of the class scores alone, ranked by what the gate asks, with pointwise 95% bands.

    Attributes:
        coverage: share of rows answered.
        selective_risk: error rate among them.
        generalized_risk: share of all rows answered wrongly.
        miss_rate: share of the answered roadwork images answered 0; None where there is none.
    """

    model_config = ConfigDict(frozen=True)

    coverage: float
    selective_risk: Estimate
    generalized_risk: Estimate
    miss_rate: float | None


class Mistake(BaseModel):
    """A wrong answer of Stage-1.

    Attributes:
        row: id of the row.
        label: what it shows.
        probability: calibrated probability of roadwork.
        level: what the certified policy decided.
    """

    model_config = ConfigDict(frozen=True)

    row: str
    label: int
    probability: float
    level: str


class Report(Artifact):
    """`report.json`.

    Attributes:
        rows: test rows.
        positives: how many of them show roadwork.
        groups: groups among them.
        alpha: target of the certificate.
        delta: one minus its confidence.
        unit: independent unit of the rates.
        ranked_by: what the gate asks, by which rows are ranked: the margin of the calibrated probability, or what the
            selection head says.
        alone: of Stage-1 alone, everything answered or ranked: accuracy, mcc, reward, augrc,
            excess_augrc, aurc, excess_aurc, augrc_balanced, auroc_of_failures, risk_at_coverage_*, coverage_at_alpha.
        policies: the certified policy first, then the others.
        gained: exit coverage and miss rate on exits of the certified policy minus the softmax baseline, paired.
        curve: risk against coverage.
        calibration: quality of each calibrator of the main head on these rows.
        answers: the calibrator that answers.
        subgroups: the certified policy in each subgroup.
        cells: the certified policy on each way in which validators sent pictures.
        mistakes: the most confident wrong answers.
    """

    SCHEMA_VERSION: ClassVar[int] = 3
    schema_version: int = 3

    rows: int
    positives: int
    groups: int
    alpha: float
    delta: float
    unit: str
    ranked_by: GateScore = "select_score"
    alone: dict[str, Estimate]
    policies: tuple[PolicyReport, ...]
    gained: dict[str, Estimate]
    curve: tuple[CurvePoint, ...]
    calibration: dict[Kind, CalibrationQuality]
    answers: Kind
    subgroups: tuple[SubgroupReport, ...]
    cells: tuple[CellReport, ...]
    mistakes: tuple[Mistake, ...]

    @property
    def accuracy(self) -> float:
        """Accuracy of Stage-1 alone."""
        return self.alone["accuracy"].value or 0.0

    @property
    def worst_subgroup(self) -> SubgroupReport | None:
        """The subgroup with the highest upper bound of its miss rate, of those in which any roadwork exits."""
        exiting = [subgroup for subgroup in self.subgroups if subgroup.miss_rate.trials]
        return max(exiting, key=lambda subgroup: subgroup.miss_rate.upper, default=None)


def evaluate(
    test: LabelledOutputs,
    params: ScrcParams,
    calibrator: ProbabilityCalibrator,
    rules: ReferenceRules | None = None,
    thresholds: Thresholds | None = None,
    settings: EvaluationSettings | None = None,
    cells: tuple[CellReport, ...] = (),
) -> Report:
    """Evaluate on the test rows.

    Args:
        test: outputs of the compiled engine for rows that chose and certified nothing.
        params: the calibrated policy.
        calibrator: for the answered probability.
        rules: rules of the literature, to stand beside it.
        thresholds: swept softmax thresholds, to stand beside it.
        settings: how much to compute.
        cells: see `Report.cells`.
    """
    settings = settings or EvaluationSettings()
    probability = calibrator.probability(test.outputs)
    predictions = (probability > 0.5).astype(np.int8)
    losses = (predictions != test.labels).astype(np.float64)
    confidence = confidence_of(test, probability, params.gate_score)
    units = test.units(params.unit, params.seed)
    entrants = contenders(params, rules, thresholds)
    decided = {entrant.name: entrant.policy.decide(test.outputs) for entrant in entrants}
    head = calibrator.heads[MAIN_HEAD]
    return Report(
        rows=len(test),
        positives=int(test.labels.sum()),
        groups=len(set(test.groups)),
        alpha=params.alpha,
        delta=params.delta,
        unit=params.unit,
        ranked_by=params.gate_score,
        alone=_alone(test, confidence, probability, losses, params.alpha, settings),
        policies=tuple(
            judge_policy(entrant, decided[entrant.name], test, units, params, settings.seed) for entrant in entrants
        ),
        gained=_gained(test, decided["scrc"], decided["threshold_baseline"], settings),
        curve=_curve(test, confidence, predictions, losses, settings),
        calibration={
            fitted.kind: judge(fitted.probabilities(test.outputs.logits)[:, 1], test.labels) for fitted in head.fitted
        },
        answers=head.answers,
        subgroups=subgroups(test, decided["scrc"], predictions, units, params.delta),
        cells=cells,
        mistakes=_mistakes(test, probability, losses, decided["scrc"]),
    )


def confidence_of(
    rows: LabelledOutputs, probability: NDArray[np.float64], gate_score: GateScore
) -> NDArray[np.floating]:
    """How far the answer to each row is to be trusted, by what the gate asks, `(N,)`.

    Args:
        rows: the rows.
        probability: of roadwork, as it is answered, `(N,)`; its distance from 1/2 is half the margin of the answer.
        gate_score: what the gate asks.
    """
    return rows.outputs.select_score if gate_score == "select_score" else np.abs(probability - 0.5)


def _alone(
    test: LabelledOutputs,
    confidence: NDArray[np.floating],
    probability: NDArray[np.float64],
    losses: NDArray[np.float64],
    alpha: float,
    settings: EvaluationSettings,
) -> dict[str, Estimate]:
    labels = test.labels
    predictions = (probability > 0.5).astype(np.int8)
    ranking = risk_coverage.Ranking.of(confidence, losses)
    curve = ranking.curve()

    def resampled(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        error = float(weights @ losses / weights.sum())
        area = ranking.augrc(weights)
        return np.array([1 - error, weighted_mcc(labels, predictions, weights), area, area - error**2 / 2])

    plain = {
        "accuracy": 1 - float(losses.mean()),
        "mcc": matthews_correlation(labels, predictions),
        "augrc": ranking.augrc(),
        "excess_augrc": risk_coverage.excess_augrc(confidence, losses),
    }
    found = _with_intervals(plain, resampled, test, settings)
    others = {
        "reward": mean_reward(labels, probability, settings.seed),
        "aurc": ranking.aurc(),
        "excess_aurc": risk_coverage.excess_aurc(confidence, losses),
        "augrc_balanced": risk_coverage.augrc_balanced(confidence, losses, labels),
        "auroc_of_failures": risk_coverage.auroc_of_failures(confidence, losses),
        "coverage_at_alpha": risk_coverage.coverage_at_risk(curve, alpha),
    }
    others |= {f"risk_at_coverage_{c:g}": risk_coverage.risk_at_coverage(curve, c) for c in WORKING_COVERAGES}
    return found | {name: Estimate(value=_defined(value)) for name, value in others.items()}


def _with_intervals(
    plain: dict[str, float],
    resampled: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    test: LabelledOutputs,
    settings: EvaluationSettings,
) -> dict[str, Estimate]:
    if not settings.repetitions:
        return {name: Estimate(value=value) for name, value in plain.items()}
    rng = np.random.default_rng(settings.seed)
    samples = bootstrap(resampled, test.groups, settings.repetitions, rng)
    ends = [interval(samples[:, column], LEVEL) for column in range(len(plain))]
    return {
        name: Estimate(value=value, lower=_defined(end.lower), upper=_defined(end.upper))
        for (name, value), end in zip(plain.items(), ends, strict=True)
    }


def _gained(
    test: LabelledOutputs, ours: Decisions, theirs: Decisions, settings: EvaluationSettings
) -> dict[str, Estimate]:
    """Certified policy minus baseline; by rows, because both count the same ones."""
    if not settings.repetitions:
        return {}
    everything, positive = np.ones(len(test), bool), test.positive
    rates = {
        "exit_coverage": [rate(everything, d.exits) for d in (ours, theirs)],
        "miss_rate_on_exits": [rate(positive & d.exits, d.exit_label == 0) for d in (ours, theirs)],
    }
    found = {}
    for name, (first, second) in rates.items():
        rng = np.random.default_rng(settings.seed)
        difference = paired_difference(first, second, test.groups, settings.repetitions, rng, LEVEL)
        ends = difference.interval
        found[name] = Estimate(
            value=_defined(difference.estimate), lower=_defined(ends.lower), upper=_defined(ends.upper)
        )
    return found


def _curve(
    test: LabelledOutputs,
    confidence: NDArray[np.floating],
    predictions: NDArray[np.int8],
    losses: NDArray[np.float64],
    settings: EvaluationSettings,
) -> tuple[CurvePoint, ...]:
    ranking = risk_coverage.Ranking.of(confidence, losses)
    whole = ranking.curve()
    missed = risk_coverage.miss_rate_curve(test.labels, predictions, confidence)
    # The first working point that answers at least this share, as a policy with a threshold would.
    places = np.searchsorted(whole.coverage, CURVE_COVERAGES - 1e-12)
    places = np.unique(np.minimum(places, len(whole.coverage) - 1))
    at = whole.coverage[places]
    risks = {"selective_risk": whole.selective_risk[places], "generalized_risk": whole.generalized_risk[places]}
    bands: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    if settings.repetitions:
        rng = np.random.default_rng(settings.seed)
        band = curve_band(ranking, test.groups, at, settings.repetitions, rng, LEVEL)
        bands = {
            "selective_risk": (band.selective_lower, band.selective_upper),
            "generalized_risk": (band.generalized_lower, band.generalized_upper),
        }

    def estimate(name: str, index: int) -> Estimate:
        lower, upper = (float(end[index]) for end in bands[name]) if bands else (None, None)
        return Estimate(value=float(risks[name][index]), lower=lower, upper=upper)

    return tuple(
        CurvePoint(
            coverage=float(coverage),
            selective_risk=estimate("selective_risk", index),
            generalized_risk=estimate("generalized_risk", index),
            miss_rate=_defined(float(missed.miss_rate[place])),
        )
        for index, (place, coverage) in enumerate(zip(places, at, strict=True))
    )


def _mistakes(
    test: LabelledOutputs, probability: NDArray[np.float64], losses: NDArray[np.float64], decisions: Decisions
) -> tuple[Mistake, ...]:
    wrong = np.flatnonzero(losses)
    ranked = wrong[np.argsort(-np.abs(probability[wrong] - 0.5), kind="stable")][:MISTAKES]
    return tuple(
        Mistake(
            row=test.row_ids[i],
            label=int(test.labels[i]),
            probability=float(probability[i]),
            level=Level(int(decisions.level[i])).name,
        )
        for i in ranked.tolist()
    )


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def metrics_csv(report: Report) -> str:
    """`metrics.csv`: one metric a line.

    Bounds of a rate are one-sided at confidence `1 - delta`, those of a number the ends of its 95% bootstrap interval.
    """

    def text(value: float | None) -> str:
        return "" if value is None else f"{value:.6f}"

    lines = ["split,policy,metric,value,lower,upper,events,trials"]
    for name, numbers in (("stage1_alone", report.alone), ("scrc_minus_threshold_baseline", report.gained)):
        for metric, number in numbers.items():
            lines.append(f"test,{name},{metric},{text(number.value)},{text(number.lower)},{text(number.upper)},,")
    for kind, quality in report.calibration.items():
        measures = ("negative_log_likelihood", "brier", "expected_calibration_error")
        lines += [f"test,calibrator_{kind},{m},{getattr(quality, m):.6f},,,,{quality.rows}" for m in measures]
    for policy in report.policies:
        rates = {"exit_coverage": policy.exit_coverage, "positives_exited": policy.positives_exited}
        rates |= {f"risk_{risk}": found for risk, found in policy.risks.items()}
        for metric, found in rates.items():
            bounds = f"{found.lower:.6f},{found.upper:.6f},{found.events},{found.trials}"
            lines.append(f"test,{policy.policy},{metric},{text(found.estimate)},{bounds}")
        for metric, value in (
            ("exit_accuracy", policy.exit_accuracy),
            ("average_set_size", policy.average_set_size),
            ("reward_at_best", policy.reward_at_best),
        ):
            lines.append(f"test,{policy.policy},{metric},{text(value)},,,,")
    return "\n".join(lines) + "\n"

"""Selective evaluation on the test rows: the certified policy, and the threshold baseline beside it."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.artifacts import Artifact
from stage1.calibration import LabelledOutputs
from stage1.certificate import ScrcParams
from stage1.decisions import Decisions
from stage1.metrics import accuracy, area_under_generalized_risk, matthews_correlation, subnet_reward
from stage1.policy import Policy, ScrcPolicy, ThresholdPolicy
from stage1.probability import ProbabilityCalibrator
from stage1.risks import Rate, Risk, Units, measure

PolicyName = Literal["scrc", "threshold_baseline"]
CURVE_POINTS = 60


class PolicyReport(BaseModel):
    """How one policy does on the test rows.

    Attributes:
        policy: which policy.
        certified: whether its miss rate on exits was certified on val_calib; the baseline never is.
        exit_coverage: share of units that exit.
        positives_exited: share of positive units that exit.
        risks: every risk with bounds.
        within_target: the upper bound of the miss rate on exits, on the test rows, is at most alpha.
        exit_accuracy: accuracy among the exits, None without any.
    """

    model_config = ConfigDict(frozen=True)

    policy: PolicyName
    certified: bool
    exit_coverage: Rate
    positives_exited: Rate
    risks: dict[Risk, Rate]
    within_target: bool
    exit_accuracy: float | None


class CurvePoint(BaseModel):
    """A working point of the class scores alone, ranked by confidence."""

    model_config = ConfigDict(frozen=True)

    coverage: float
    selective_risk: float


class Report(Artifact):
    """`report.json`.

    Attributes:
        rows: test rows.
        positives: how many of them show roadwork.
        groups: groups among them.
        accuracy: of Stage-1 alone, everything answered.
        mcc: of Stage-1 alone.
        reward: subnet reward of Stage-1 alone on the test rows in their order.
        augrc: area under the generalised risk-coverage curve, ranked by the selection score.
        log_loss: of the calibrated probability.
        alpha: target of the certificate.
        delta: one minus its confidence.
        policies: the certified policy and the baseline.
        curve: selective risk against coverage, ranked by the selection score.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    rows: int
    positives: int
    groups: int
    accuracy: float
    mcc: float
    reward: float
    augrc: float
    log_loss: float
    alpha: float
    delta: float
    policies: tuple[PolicyReport, ...]
    curve: tuple[CurvePoint, ...]


def evaluate(test: LabelledOutputs, params: ScrcParams, calibrator: ProbabilityCalibrator) -> Report:
    """Evaluate on the test rows.

    Args:
        test: outputs of the compiled engine for rows that chose and certified nothing.
        params: the calibrated policy.
        calibrator: for the answered probability.
    """
    labels = test.labels
    probability = calibrator.probability(test.outputs)
    predictions = (probability > 0.5).astype(np.int8)
    losses = (predictions != labels).astype(np.float64)
    clipped = np.clip(probability, 1e-12, 1 - 1e-12)
    units = test.units(params.unit, params.seed)
    scrc = ScrcPolicy(params)
    gate_all = np.ones(len(test), bool)
    return Report(
        rows=len(test),
        positives=int(labels.sum()),
        groups=len(set(test.groups)),
        accuracy=accuracy(labels, predictions),
        mcc=matthews_correlation(labels, predictions),
        reward=subnet_reward(labels, probability),
        augrc=area_under_generalized_risk(test.outputs.select_score, losses),
        log_loss=float(-np.mean(np.where(labels == 1, np.log(clipped), np.log1p(-clipped)))),
        alpha=params.alpha,
        delta=params.delta,
        policies=(
            _judge("scrc", scrc, params.status == "CERTIFIED", scrc.gate(test.outputs), test, units, params),
            _judge("threshold_baseline", ThresholdPolicy(), False, gate_all, test, units, params),
        ),
        curve=_curve(test.outputs.select_score, losses),
    )


def _judge(
    name: PolicyName,
    policy: Policy,
    certified: bool,
    gate: NDArray[np.bool_],
    test: LabelledOutputs,
    units: Units,
    params: ScrcParams,
) -> PolicyReport:
    decisions: Decisions = policy.decide(test.outputs)
    exits, labels = decisions.exits, test.labels
    risks = measure(labels, decisions, gate, units, delta=params.delta)
    return PolicyReport(
        policy=name,
        certified=certified,
        exit_coverage=Rate.count(*units.count(np.ones(len(test), bool), exits), params.delta),
        positives_exited=Rate.count(*units.count(labels == 1, exits), params.delta),
        risks=risks,
        within_target=risks[Risk.MISS_EXIT].upper <= params.alpha,
        exit_accuracy=accuracy(labels[exits], decisions.exit_label[exits]) if exits.any() else None,
    )


def _curve(confidence: NDArray[np.float32], losses: NDArray[np.float64]) -> tuple[CurvePoint, ...]:
    order = np.argsort(confidence)[::-1]
    risk = np.cumsum(losses[order]) / np.arange(1, len(order) + 1)
    # Rows with the same confidence are answered together.
    ends = np.append(np.flatnonzero(np.diff(confidence[order])) + 1, len(order))
    drawn = ends[np.unique(np.linspace(0, len(ends) - 1, min(CURVE_POINTS, len(ends))).astype(int))]
    return tuple(CurvePoint(coverage=int(n) / len(order), selective_risk=float(risk[n - 1])) for n in drawn)


def metrics_csv(report: Report) -> str:
    """`metrics.csv`: one metric a line; bounds are one-sided at confidence `1 - delta`."""
    alone = ("accuracy", "mcc", "reward", "augrc", "log_loss")
    lines = ["split,policy,metric,value,lower,upper,events,trials"]
    lines += [f"test,stage1_alone,{metric},{getattr(report, metric):.6f},,,," for metric in alone]
    for policy in report.policies:
        rates = {"exit_coverage": policy.exit_coverage, "positives_exited": policy.positives_exited}
        rates |= {f"risk_{risk}": rate for risk, rate in policy.risks.items()}
        for metric, rate in rates.items():
            value = "" if rate.estimate is None else f"{rate.estimate:.6f}"
            bounds = f"{rate.lower:.6f},{rate.upper:.6f},{rate.events},{rate.trials}"
            lines.append(f"test,{policy.policy},{metric},{value},{bounds}")
    return "\n".join(lines) + "\n"

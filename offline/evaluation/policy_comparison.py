"""The policies that a report sets side by side, and how each does on the test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from stage1.baselines.literature import ReferenceRules
from stage1.baselines.softmax import ThresholdPolicy, Thresholds
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.certificate.risks import Rate, Risk, Units, measure
from stage1.certificate.statistics.percent import at_most, confidence
from stage1.decisions import Decisions, Level
from stage1.exit_rule import ExitRule
from stage1.metrics.classification import accuracy
from stage1.metrics.reward import subnet_reward
from stage1.metrics.risk_coverage import average_set_size
from stage1.policy import Policy, RulePolicy, ScrcPolicy

REWARD_ORDERS = 5
PolicyName = Literal["scrc", "scrc_i", "scrc_t", "scrc_t_label", "crc", "threshold_baseline", "threshold_swept"]


class PolicyReport(BaseModel):
    """How one policy does on the test rows.

    Attributes:
        policy: which policy.
        certified: whether its promise was certified on val_calib; only that of `scrc` can be.
        promise: what its method promises, in words.
        infeasible: why its method found no rule; empty if it did.
        exit_coverage: share of units that exit.
        positives_exited: share of positive units that exit.
        risks: every risk with bounds.
        exit_accuracy: accuracy among the exits, None without any.
        average_set_size: mean size of the prediction sets.
        levels: rows at each level.
        reward_at_best: subnet reward if Stage-2 were right about everything that is deferred: what it cannot exceed.
    """

    model_config = ConfigDict(frozen=True)

    policy: PolicyName
    certified: bool
    promise: str
    infeasible: str = ""
    exit_coverage: Rate
    positives_exited: Rate
    risks: dict[Risk, Rate]
    exit_accuracy: float | None
    average_set_size: float
    levels: dict[str, int]
    reward_at_best: float


@dataclass(frozen=True)
class Contender:
    """A policy, and what is to be said of it.

    Attributes:
        name: which policy.
        policy: decides.
        rule: its exit rule; None where it has none, and then it has no gate.
        promise: what its method promises.
        certified: whether anything was certified.
        infeasible: why its method found no rule.
    """

    name: PolicyName
    policy: Policy
    rule: ExitRule | None
    promise: str
    certified: bool = False
    infeasible: str = ""


def contenders(
    params: ScrcParams, rules: ReferenceRules | None = None, thresholds: Thresholds | None = None
) -> list[Contender]:
    """The certified policy, then the rules of the literature, then the thresholds that promise nothing.

    Args:
        params: the calibrated policy.
        rules: rules of the literature on the same calibration rows.
        thresholds: swept softmax thresholds.
    """
    certified = params.status == "CERTIFIED"
    promise = f"{params.risk} <= {at_most(params.alpha)} with {confidence(params.delta)} confidence"
    found = [
        Contender("scrc", ScrcPolicy(params), params.rule, promise, certified, params.reason),
        *(
            Contender(rule.name, RulePolicy(rule.rule), rule.rule, rule.promise, infeasible=rule.reason)
            for rule in (() if rules is None else rules.rules)
        ),
        Contender("threshold_baseline", ThresholdPolicy(), None, "nothing"),
    ]
    if thresholds is not None:
        told = "nothing; the miss rate was observed on val_select"
        found.append(Contender("threshold_swept", thresholds.policy, None, told))
    return found


def judge_policy(
    contender: Contender,
    decisions: Decisions,
    test: LabelledOutputs,
    units: Units,
    params: ScrcParams,
    seed: int,
) -> PolicyReport:
    """Count what a policy does on the test rows.

    Args:
        contender: the policy.
        decisions: what it decided for these rows.
        test: the rows.
        units: their independent units.
        params: alpha and delta.
        seed: of the orders in which challenges may arrive.
    """
    exits, labels = decisions.exits, test.labels
    gate = np.ones(len(test), bool) if contender.rule is None else contender.rule.gate(test.outputs)
    risks = measure(labels, decisions, gate, units, delta=params.delta)
    return PolicyReport(
        policy=contender.name,
        certified=contender.certified,
        promise=contender.promise,
        infeasible=contender.infeasible,
        exit_coverage=Rate.count(*units.count(np.ones(len(test), bool), exits), params.delta),
        positives_exited=Rate.count(*units.count(test.positive, exits), params.delta),
        risks=risks,
        exit_accuracy=accuracy(labels[exits], decisions.exit_label[exits]) if exits.any() else None,
        average_set_size=average_set_size(decisions),
        levels={level.name: int(np.sum(decisions.level == level)) for level in Level},
        reward_at_best=mean_reward(labels, np.where(exits, decisions.exit_label, labels).astype(np.float64), seed),
    )


def mean_reward(labels: NDArray[np.int8], probabilities: NDArray[np.float64], seed: int) -> float:
    """Subnet reward over a few random orders of the rows: a data set lists its classes and drives one after another.

    Args:
        labels: 0 or 1, `(N,)`.
        probabilities: answers, `(N,)`.
        seed: of the orders.
    """
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(labels)) for _ in range(REWARD_ORDERS)]
    return float(np.mean([subnet_reward(labels[order], probabilities[order]) for order in orders]))


class SubgroupReport(BaseModel):
    """How the certified policy does in one subgroup of the test rows.

    Attributes:
        column: column of the metadata.
        value: the subgroup.
        rows: its rows.
        positives: how many of them show roadwork.
        accuracy: of Stage-1 alone.
        exit_coverage: share of its units that exit.
        miss_rate: on exits; its bound is by itself, not simultaneous with those of other subgroups.
    """

    model_config = ConfigDict(frozen=True)

    column: str
    value: str
    rows: int
    positives: int
    accuracy: float
    exit_coverage: Rate
    miss_rate: Rate


FEWEST_VALUES, MOST_VALUES, FEWEST_ROWS = 2, 12, 10


def subgroups(
    test: LabelledOutputs, decisions: Decisions, predictions: NDArray[np.int8], units: Units, delta: float
) -> tuple[SubgroupReport, ...]:
    """Every value of every column that has a few values, if it has enough rows.

    Args:
        test: the rows.
        decisions: of the certified policy.
        predictions: of Stage-1 alone, 0 or 1, `(N,)`.
        units: the independent units.
        delta: one minus the confidence of each bound.
    """
    found = []
    for name in sorted(test.metadata):
        column = test.column(name)
        values, counts = np.unique(column, return_counts=True)
        if not FEWEST_VALUES <= len(values) <= MOST_VALUES:
            continue
        shown: Sequence[str] = [str(v) for v, count in zip(values, counts, strict=True) if count >= FEWEST_ROWS]
        found += [
            _subgroup(test, decisions, predictions, units, delta, name, value, column == value) for value in shown
        ]
    return tuple(found)


def _subgroup(
    test: LabelledOutputs,
    decisions: Decisions,
    predictions: NDArray[np.int8],
    units: Units,
    delta: float,
    column: str,
    value: str,
    inside: NDArray[np.bool_],
) -> SubgroupReport:
    exits, missed = inside & decisions.exits, decisions.exit_label == 0
    return SubgroupReport(
        column=column,
        value=value,
        rows=int(inside.sum()),
        positives=int((inside & test.positive).sum()),
        accuracy=accuracy(test.labels[inside], predictions[inside]),
        exit_coverage=Rate.count(*units.count(inside, decisions.exits), delta),
        miss_rate=Rate.count(*units.count(exits & test.positive, missed), delta),
    )

"""Two bundles on the same rows: what one loses against the other, with how much certainty.

A challenger is no worse than a margin allows if the lower bound of the paired difference lies above minus the margin: a
test of non-inferiority. So few rows keep the champion, and a challenger that is worse by more than the margin passes
with at most one minus the confidence.

A margin alone is a ratchet: on many rows a loss that is smaller than the margin is seen, and would be accepted night
after night. So what is shown to be worse in one respect must be shown to be better in another.

References:
    Wellek (2010), Testing statistical hypotheses of equivalence and noninferiority, 2nd ed., chapter 2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from offline.evaluation.policy_comparison import FEWEST_ROWS, FEWEST_VALUES, MOST_VALUES, mean_reward
from offline.publish.settings import GateSettings
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import ScrcParams
from stage1.metrics.bootstrap import bootstrap, interval
from stage1.metrics.classification import matthews_correlation
from stage1.policy import ScrcPolicy
from stage1.probability.calibrator import ProbabilityCalibrator

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Judged:
    """A bundle on rows that it has not seen.

    Attributes:
        params: its policy.
        calibrator: of its probabilities.
        rows: the rows with its outputs.
        exits: which of them exit, `(N,)`.
        right: which of them Stage-1 alone answers rightly, `(N,)`.
        probability: answered probability of roadwork, `(N,)`.
    """

    params: ScrcParams
    calibrator: ProbabilityCalibrator
    rows: LabelledOutputs
    exits: Mask
    right: Mask
    probability: NDArray[np.float64]

    @classmethod
    def of(cls, params: ScrcParams, calibrator: ProbabilityCalibrator, rows: LabelledOutputs) -> Judged:
        """What a bundle with these parameters does on these rows."""
        probability = calibrator.probability(rows.outputs)
        right = (probability > 0.5) == rows.positive
        return cls(params, calibrator, rows, ScrcPolicy(params).decide(rows.outputs).exits, right, probability)

    @property
    def mcc(self) -> float:
        """Matthews correlation of Stage-1 alone."""
        return matthews_correlation(self.rows.labels, (self.probability > 0.5).astype(np.int8))

    def reward(self, seed: int) -> float:
        """What the subnet would pay for the answers of Stage-1 alone."""
        return mean_reward(self.rows.labels, self.probability, seed)


class Loss(BaseModel):
    """A paired difference, challenger minus other.

    Attributes:
        of: what differs: `exit coverage`, `accuracy`, or accuracy in a subgroup.
        estimate: on the rows as they are.
        lower: one-sided lower bound.
        upper: one-sided upper bound.
        margin: the largest loss that is accepted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: str
    estimate: float
    lower: float
    upper: float
    margin: float


class Comparison(BaseModel):
    """A challenger beside another bundle on the same rows.

    Attributes:
        against: id of the other bundle.
        rows: rows that neither has seen.
        groups: groups among them.
        like: both promise the same, so that their exits may be compared.
        losses: differences, the negative ones being losses.
        rewards: what the subnet would pay for Stage-1 alone, challenger and other.
        reasons: why the other one is to be kept; empty if the challenger may replace it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: str
    rows: int
    groups: int
    like: bool
    losses: tuple[Loss, ...]
    rewards: tuple[float, float]
    reasons: tuple[str, ...]


def compare(new: Judged, old: Judged, against: str, settings: GateSettings, *, like: bool, seed: int = 0) -> Comparison:
    """Compare a challenger with another bundle.

    Args:
        new: the challenger.
        old: the other one, on the same rows.
        against: its id.
        settings: margins and confidence.
        like: both promise the same.
        seed: of the bootstrap, and of the orders in which challenges may arrive.
    """
    everything = np.ones(len(new.rows), bool)
    overall = [_Pair("accuracy", everything, new.right, old.right, settings.accuracy_margin)]
    if like:
        overall.append(_Pair("exit coverage", everything, new.exits, old.exits, settings.coverage_margin))
    found = _losses([*overall, *_subgroups(new, old, settings.subgroup_margin)], new.rows.groups, settings, seed)
    losses, parts = found[: len(overall)], found[len(overall) :]
    # Exits under other promises are no measure, but something that exits is better than nothing.
    ahead = any(loss.lower > 0 for loss in losses) or (new.params.status, old.params.status) == (
        "CERTIFIED",
        "INFEASIBLE",
    )
    reasons = [
        f"{loss.of} on {len(new.rows)} test rows differs by {loss.estimate:+.3f}, and a loss of more than "
        f"{loss.margin:g} against {against} is not ruled out: at {settings.confidence:.0%} confidence it is above "
        f"{loss.lower:+.3f}"
        for loss in losses
        if not loss.lower >= -loss.margin
    ]
    reasons += [
        f"{loss.of} differs by {loss.estimate:+.3f} from {against}, at {settings.confidence:.0%} confidence by at most "
        f"{loss.upper:+.3f}: a loss of more than {loss.margin:g}"
        for loss in parts
        if loss.estimate < -loss.margin and loss.upper < 0
    ]
    reasons += [
        f"{loss.of} is shown to be lower than that of {against}, by {loss.estimate:+.3f} and at "
        f"{settings.confidence:.0%} confidence by at most {loss.upper:+.3f}, and nothing is shown to be higher"
        for loss in losses
        if loss.lower >= -loss.margin and loss.upper < 0 and not ahead
    ]
    return Comparison(
        against=against,
        rows=len(new.rows),
        groups=len(set(new.rows.groups)),
        like=like,
        losses=tuple(found),
        rewards=(new.reward(seed), old.reward(seed)),
        reasons=tuple(reasons),
    )


@dataclass(frozen=True)
class _Pair:
    """What two bundles do with some of the rows, `(N,)` each."""

    of: str
    among: Mask
    ours: Mask
    theirs: Mask
    margin: float


def _losses(pairs: Sequence[_Pair], groups: Sequence[str], settings: GateSettings, seed: int) -> list[Loss]:
    """All differences under the same weights."""
    trials = np.array([pair.among for pair in pairs], np.float64)
    ahead = np.array([pair.among * (pair.ours.astype(np.float64) - pair.theirs) for pair in pairs])

    def differences(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        among = trials @ weights
        shares: NDArray[np.float64] = np.divide(
            ahead @ weights, among, out=np.full(len(pairs), np.nan), where=among > 0
        )
        return shares

    samples = bootstrap(differences, groups, settings.repetitions, np.random.default_rng(seed))
    # With twice the tails, each end is a one-sided bound.
    ends = [interval(samples[:, column], 2 * settings.confidence - 1) for column in range(len(pairs))]
    estimates = differences(np.ones(trials.shape[1]))
    return [
        Loss(of=pair.of, estimate=float(estimate), lower=end.lower, upper=end.upper, margin=pair.margin)
        for pair, estimate, end in zip(pairs, estimates, ends, strict=True)
    ]


def _subgroups(new: Judged, old: Judged, margin: float) -> Iterator[_Pair]:
    """Accuracy in every value of every column that has a few values, where it has enough rows."""
    for name in sorted(new.rows.metadata):
        column = new.rows.column(name)
        values, counts = np.unique(column, return_counts=True)
        if not FEWEST_VALUES <= len(values) <= MOST_VALUES:
            continue
        for value, count in zip(values, counts, strict=True):
            if count >= FEWEST_ROWS:
                yield _Pair(f"accuracy where {name} is {value}", column == value, new.right, old.right, margin)

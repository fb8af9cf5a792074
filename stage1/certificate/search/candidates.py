"""What val_select chooses before val_calib is looked at: gates, t1, the order of t0.

Any choice is valid, a good one is powerful.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Chain
from stage1.certificate.risks import Risk, Units, onset
from stage1.certificate.search.threshold_counts import sweep
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import p_values
from stage1.decisions import DEFERRED
from stage1.exit_rule import Eligible, ExitRule, HeadAgreement, Mask, consent, eligible
from stage1.outputs import Floats, GateScore, Stage1Outputs
from stage1.tolerance import TOLERANCE

LARGEST_GATED_SHARE = 0.6
COVERAGE_MARGINS = (1.5, 2.5, 3.5, 5.0)
# Gaps that are passed over where scores lie too densely for the tolerance, and the least margin as a share of it.
NARROW = 0.75
LEAST_SHARE = 0.01
# No margin is below it, so everything passes.
EVERY_MARGIN = 0.0
# Their trials are few where t0 is low, and then nothing can be certified: the walk must start where it has power.
STARTS_LATE = frozenset({Risk.FALSE_OMISSION, Risk.ERROR_EXIT})


@dataclass(frozen=True)
class Candidates:
    """What val_select froze.

    Attributes:
        chains: gates with their t1 and the increasing grid of t0, the most promising first.
        agreement: heads that must agree, with their cuts.
        expected_coverage: exit coverage on val_select at the t0 it would choose itself, 0 if none looks safe.
        chosen: the rule with that t0, None if none looks safe; nothing certifies it.
        gate_score: what the gates ask.
    """

    chains: tuple[Chain, ...]
    agreement: tuple[HeadAgreement, ...] = ()
    expected_coverage: float = 0.0
    chosen: ExitRule | None = None
    gate_score: GateScore = "select_score"

    def eligible(self, outputs: Stage1Outputs, chain: Chain) -> Eligible:
        """What a rule of this chain leaves open when t0 is not yet chosen."""
        return eligible(outputs, tau=chain.tau, t1=chain.t1, agreement=self.agreement, gate_score=self.gate_score)

    def rule(self, chain: Chain, t0: float) -> ExitRule:
        """The rule of this chain with this t0."""
        return ExitRule(tau=chain.tau, t0=t0, t1=chain.t1, agreement=self.agreement, gate_score=self.gate_score)


@dataclass(frozen=True)
class _Option:
    """A gate on val_select: risk relative to its level and exit coverage, along the grid."""

    tau: float
    t1: float
    grid: Floats
    ratio: NDArray[np.float64]
    coverage: NDArray[np.float64]
    start: int

    def best(self, safety: float) -> float:
        """Highest exit coverage where the smoothed risk is safe, -1 if it never is."""
        safe = self.ratio <= safety
        return float(self.coverage[safe].max()) if safe.any() else -1.0

    def chosen(self, safety: float) -> float | None:
        """The t0 of that coverage, None if it never is."""
        safe = np.flatnonzero(self.ratio <= safety)
        return float(self.grid[safe[np.argmax(self.coverage[safe])]]) if len(safe) else None

    def chain(self) -> Chain:
        return Chain(tau=self.tau, t1=self.t1, grid=tuple(self.grid[self.start :].tolist()))


def cuts(scores: Floats, tolerance: float) -> Floats:
    """Thresholds that no score is near: middles of wide gaps between scores, one below all and one above all.

    A threshold on a score would turn the last bit of that score into a decision, and the last bit depends on the
    machine and on the size of the batch. A gap is wide if no difference that the tolerance allows crosses its half;
    where scores lie denser than that, if it is among the widest quarter.

    Args:
        scores: ascending, `(N,)`, at least one; differences of two outputs.
        tolerance: largest difference of an output that is accepted.

    Returns:
        float32, ascending, at least two.
    """
    values = scores[np.append(True, scores[1:] != scores[:-1])]
    low, high = values[:-1], values[1:]
    half = np.float32(0.5)
    middle = half * low + half * high
    # Between two neighbours of the float type there is nothing; the upper one separates them.
    middle = np.where(middle > low, middle, high)
    away = np.minimum(middle - low, high - middle)
    margin = 2 * tolerance
    ends = _beyond(values[0], -margin), _beyond(values[-1], margin)
    if len(away):
        margin = max(LEAST_SHARE * tolerance, min(margin, float(np.quantile(away, NARROW))))
    return np.concatenate([ends[:1], middle[away >= margin], ends[1:]])


def _beyond(score: np.float32, step: float) -> np.float32:
    """A value so far beyond a score, and another one whatever the step."""
    beyond = np.float32(score + np.float32(step))
    return beyond if beyond != score else np.nextafter(score, np.float32(np.copysign(np.inf, step)))


def _at_or_above(thresholds: Floats, wanted: float) -> float:
    """The smallest threshold that is not below what is wanted, or the largest there is."""
    return float(thresholds[min(int(np.searchsorted(thresholds, np.float32(wanted))), len(thresholds) - 1)])


def exit_one_threshold(negative_scores: Floats, allowed: int) -> float:
    """Smallest t1 with which at most `allowed` of these negatives exit as 1, minus infinity if all may.

    Args:
        negative_scores: roadwork scores of negatives that may exit as 1, `(N,)`.
        allowed: how many of them may.
    """
    if allowed >= len(negative_scores):
        return -math.inf
    barrier = np.partition(negative_scores, len(negative_scores) - 1 - allowed)[len(negative_scores) - 1 - allowed]
    return float(np.nextafter(barrier, np.float32(np.inf)))


def fit_agreement(
    data: LabelledOutputs, heads: Sequence[str], tolerance: float = TOLERANCE
) -> tuple[HeadAgreement, ...]:
    """Cut of each head where its balanced accuracy on val_select is highest.

    Args:
        data: rows of val_select.
        heads: names of the heads that must agree.
        tolerance: see `cuts`.

    Raises:
        stage1.errors.OutputsError: a head does not exist.
    """
    return tuple(HeadAgreement(head=name, cut=_cut(data, name, tolerance)) for name in heads)


def _cut(data: LabelledOutputs, head: str, tolerance: float) -> float:
    score = data.outputs.head_score(head)
    order = np.argsort(score)
    ascending = score[order]
    return _fairest(ascending, data.positive[order], cuts(ascending, tolerance))


def _fairest(scores: Floats, positive: Mask, thresholds: Floats) -> float:
    """Threshold at or above which to say roadwork so that the balanced accuracy on ascending scores is highest.

    Saying the same of everything gains nothing either way; then it is always said.
    """
    below = np.searchsorted(scores, thresholds, side="left")
    hits = np.append(0, np.cumsum(positive))[below]
    positives = int(positive.sum())
    gain = (below - hits) / max(1, len(scores) - positives) - hits / max(1, positives)
    return float(thresholds[np.argmax(gain)])


def select(data: LabelledOutputs, settings: CalibrationSettings, tolerance: float = TOLERANCE) -> Candidates:
    """Choose gates, t1 and the grid of t0 on val_select, for the modes `risk` and `balanced`.

    The best gate has the highest exit coverage among those whose smoothed risk (k + 1) / (m + 2) can be brought to
    `safety * alpha`; if there is none, the one whose smoothed risk is lowest.

    Args:
        data: rows of val_select, both classes.
        settings: see `CalibrationSettings`.
        tolerance: see `cuts`; no threshold is chosen near a score.
    """
    agreement = fit_agreement(data, settings.agreement, tolerance)
    options = _options(data, agreement, settings, tolerance)

    def rank(option: _Option) -> tuple[bool, float]:
        best = option.best(settings.safety)
        return best >= 0, best if best >= 0 else -float(option.ratio.min())

    ranked = sorted(options, key=rank, reverse=True)
    chains = tuple(option.chain() for option in ranked[: settings.chains])
    best = ranked[0]
    found = Candidates(chains, agreement, max(best.best(settings.safety), 0.0), gate_score=settings.gate)
    t0 = best.chosen(settings.safety)
    return found if t0 is None else replace(found, chosen=found.rule(best.chain(), t0))


def select_for_coverage(
    data: LabelledOutputs, settings: CalibrationSettings, units: int, tolerance: float = TOLERANCE
) -> Candidates:
    """Choose a few rules on val_select for mode `coverage`: each has the lowest risk at its own exit coverage.

    Their coverages exceed the target by growing margins, in standard errors of the coverage of so many units.

    Args:
        data: rows of val_select, both classes.
        settings: see `CalibrationSettings`.
        units: independent units of val_calib.
        tolerance: see `cuts`; no threshold is chosen near a score.
    """
    agreement = fit_agreement(data, settings.agreement, tolerance)
    options = _options(data, agreement, settings, tolerance)
    error = math.sqrt(settings.coverage * (1 - settings.coverage) / max(1, units))
    chains: list[Chain] = []
    for errors in COVERAGE_MARGINS:
        wanted = min(settings.coverage + errors * error, max(float(option.coverage.max()) for option in options))
        pairs = [(o.ratio[j], o, j) for o in options for j in np.flatnonzero(o.coverage >= wanted)[:1]]
        _, option, at = min(pairs, key=lambda pair: float(pair[0]))
        chain = Chain(tau=option.tau, t1=option.t1, grid=(float(option.grid[at]),))
        if chain not in chains:
            chains.append(chain)
    return Candidates(tuple(chains), agreement, gate_score=settings.gate)


def _options(
    data: LabelledOutputs, agreement: tuple[HeadAgreement, ...], settings: CalibrationSettings, tolerance: float
) -> list[_Option]:
    gates = [EVERY_MARGIN] if settings.gate == "margin" else _gates(data.outputs.select_score, settings, tolerance)
    # What passes a gate keeps its order, so one sort serves all of them.
    order = np.argsort(data.outputs.roadwork_score)
    outputs, labels = data.outputs.rows(order), data.labels[order]
    units = data.units(settings.unit, settings.seed).reordered(order)
    return [_option(outputs, labels, units, tau, agreement, settings, tolerance) for tau in gates]


def _gates(select_score: Floats, settings: CalibrationSettings, tolerance: float) -> list[float]:
    shares = np.linspace(0, LARGEST_GATED_SHARE, settings.gate_size)
    passes = cuts(np.sort(select_score), tolerance)
    wanted = np.quantile(select_score, shares).astype(np.float32)
    # The smallest selection score passes the first gate, as everything does.
    return sorted({float(passes[0]), *(_at_or_above(passes, value) for value in wanted[1:])})


def _option(
    outputs: Stage1Outputs,
    labels: NDArray[np.int8],
    units: Units,
    tau: float,
    agreement: tuple[HeadAgreement, ...],
    settings: CalibrationSettings,
    tolerance: float,
) -> _Option:
    """What a gate promises on rows whose roadwork scores ascend."""
    passing = outputs.confidence(settings.gate) >= tau
    scores = outputs.roadwork_score[passing if passing.any() else slice(None)]
    thresholds = cuts(scores, tolerance)
    t1 = _exit_one(outputs, labels == 1, passing, agreement, settings.false_alarm_rate, thresholds)
    rule = eligible(outputs, tau=tau, t1=t1, agreement=agreement, gate_score=settings.gate)
    grid = _grid(scores, thresholds, t1, settings.grid_size)
    claims = {settings.risk: settings.alpha, **settings.also}
    counted = {risk: sweep(onset(risk, labels, rule), units, grid) for risk in claims}
    ratio = np.max([(c.losses + 1) / (c.trials + 2) / claims[risk] for risk, c in counted.items()], axis=0)
    start = 0
    if STARTS_LATE & claims.keys():
        p = np.max([p_values(c.losses, c.trials, claims[risk]) for risk, c in counted.items()], axis=0)
        start = int(np.argmin(p))
    return _Option(tau, t1, grid, ratio, _row_coverage(rule, grid), start)


def _grid(scores: Floats, thresholds: Floats, t1: float, size: int) -> Floats:
    """Thresholds up to t1, evenly thinned by the number of ascending scores below them, t1 the last of them."""
    below = thresholds[: np.searchsorted(thresholds, np.float32(t1))]
    ranks = np.searchsorted(scores, below)
    wanted = np.linspace(0, ranks[-1], size - 1) if len(below) else np.zeros(0)
    drawn = np.unique(np.searchsorted(ranks, wanted, side="right") - 1)
    return np.append(below[drawn], np.float32(t1))


def _exit_one(
    outputs: Stage1Outputs,
    positive: Mask,
    gate: Mask,
    agreement: tuple[HeadAgreement, ...],
    rate: float,
    thresholds: Floats,
) -> float:
    score = outputs.roadwork_score
    if not gate.any():
        return float(thresholds[-1])
    negative = gate & ~positive
    _, one = consent(outputs, agreement)
    alarms = score[negative if one is None else negative & one]
    t1 = exit_one_threshold(alarms, math.floor(rate * int(negative.sum())))
    # Where the classes are far apart few false alarms are no reason to say roadwork just above the negatives.
    return max(_at_or_above(thresholds, t1), _fairest(score[gate], positive[gate], thresholds))


def _row_coverage(rule: Eligible, grid: Floats) -> NDArray[np.float64]:
    below = np.searchsorted(rule.score[rule.zero], grid, side="left")
    coverage: NDArray[np.float64] = (below + rule.one.sum()) / max(1, len(rule.score))
    return coverage


def ambiguous_cut(data: LabelledOutputs, rule: ExitRule | None, share: float, gate_score: GateScore) -> float:
    """Gate score below which a deferred image is AMBIGUOUS: the lowest `share` of what this rule defers.

    Args:
        data: rows of val_select.
        rule: the rule in force, None if everything is deferred.
        share: share of the deferred images.
        gate_score: what tells how far an image is to be trusted.
    """
    confidence = data.outputs.confidence(gate_score)
    deferred = confidence if rule is None else confidence[rule.exit_labels(data.outputs) == DEFERRED]
    return float(np.quantile(deferred if len(deferred) else confidence.min(), share))

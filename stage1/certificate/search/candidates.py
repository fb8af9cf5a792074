"""What val_select chooses before val_calib is looked at: gates, t1, the order of t0.

Any choice is valid, a good one is powerful.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
from stage1.outputs import Floats, Stage1Outputs

LARGEST_GATED_SHARE = 0.6
COVERAGE_MARGINS = (1.5, 2.5, 3.5, 5.0)
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
    """

    chains: tuple[Chain, ...]
    agreement: tuple[HeadAgreement, ...] = ()
    expected_coverage: float = 0.0
    chosen: ExitRule | None = None


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

    def rule(self, safety: float, agreement: tuple[HeadAgreement, ...]) -> ExitRule | None:
        """The rule of that coverage, None if it never is."""
        safe = np.flatnonzero(self.ratio <= safety)
        if not len(safe):
            return None
        t0 = float(self.grid[safe[np.argmax(self.coverage[safe])]])
        return ExitRule(tau=self.tau, t0=t0, t1=self.t1, agreement=agreement)

    def chain(self) -> Chain:
        return Chain(tau=self.tau, t1=self.t1, grid=tuple(self.grid[self.start :].tolist()))


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


def fit_agreement(data: LabelledOutputs, heads: Sequence[str]) -> tuple[HeadAgreement, ...]:
    """Cut of each head where its balanced accuracy on val_select is highest.

    Args:
        data: rows of val_select.
        heads: names of the heads that must agree.

    Raises:
        stage1.errors.OutputsError: a head does not exist.
    """
    return tuple(HeadAgreement(head=name, cut=_cut(data.outputs.head_score(name), data.positive)) for name in heads)


def _cut(score: Floats, positive: Mask) -> float:
    """Value at or above which to say roadwork so that the balanced accuracy is highest."""
    order = np.argsort(score)
    return _cut_of_sorted(score[order], positive[order])


def _cut_of_sorted(values: Floats, positive: Mask) -> float:
    """`_cut` of scores that ascend."""
    hits = np.cumsum(positive)
    negatives = np.arange(1, len(hits) + 1) - hits
    # Cutting above the i-th value gains its negatives and loses its positives.
    gain = negatives / max(1, negatives[-1]) - hits / max(1, hits[-1])
    gain[:-1][values[:-1] == values[1:]] = -np.inf
    at = int(np.argmax(gain))
    # Saying the same of everything gains nothing either way; then the head always says roadwork.
    return float(
        values[0] if at == len(values) - 1 else np.float32(0.5) * values[at] + np.float32(0.5) * values[at + 1]
    )


def select(data: LabelledOutputs, settings: CalibrationSettings) -> Candidates:
    """Choose gates, t1 and the grid of t0 on val_select, for the modes `risk` and `balanced`.

    The best gate has the highest exit coverage among those whose smoothed risk (k + 1) / (m + 2) can be brought to
    `safety * alpha`; if there is none, the one whose smoothed risk is lowest.

    Args:
        data: rows of val_select, both classes.
        settings: see `CalibrationSettings`.
    """
    agreement = fit_agreement(data, settings.agreement)
    options = _options(data, agreement, settings)

    def rank(option: _Option) -> tuple[bool, float]:
        best = option.best(settings.safety)
        return best >= 0, best if best >= 0 else -float(option.ratio.min())

    ranked = sorted(options, key=rank, reverse=True)
    gates = settings.gates if settings.algorithm == "C" else 1
    chains = tuple(option.chain() for option in ranked[:gates])
    best = ranked[0]
    chosen = best.rule(settings.safety, agreement)
    return Candidates(chains, agreement, max(best.best(settings.safety), 0.0), chosen)


def select_for_coverage(data: LabelledOutputs, settings: CalibrationSettings, units: int) -> Candidates:
    """Choose a few rules on val_select for mode `coverage`: each has the lowest risk at its own exit coverage.

    Their coverages exceed the target by growing margins, in standard errors of the coverage of so many units.

    Args:
        data: rows of val_select, both classes.
        settings: see `CalibrationSettings`.
        units: independent units of val_calib.
    """
    agreement = fit_agreement(data, settings.agreement)
    options = _options(data, agreement, settings)
    error = math.sqrt(settings.coverage * (1 - settings.coverage) / max(1, units))
    chains: list[Chain] = []
    for margin in COVERAGE_MARGINS:
        wanted = min(settings.coverage + margin * error, max(float(option.coverage.max()) for option in options))
        pairs = [(o.ratio[j], o, j) for o in options for j in np.flatnonzero(o.coverage >= wanted)[:1]]
        _, option, at = min(pairs, key=lambda pair: float(pair[0]))
        chain = Chain(tau=option.tau, t1=option.t1, grid=(float(option.grid[at]),))
        if chain not in chains:
            chains.append(chain)
    return Candidates(tuple(chains), agreement)


def _options(
    data: LabelledOutputs, agreement: tuple[HeadAgreement, ...], settings: CalibrationSettings
) -> list[_Option]:
    shares = np.linspace(0, LARGEST_GATED_SHARE, settings.gate_size)
    gates = np.unique(np.quantile(data.outputs.select_score, shares).astype(np.float32))
    # What passes a gate keeps its order, so one sort serves all of them.
    order = np.argsort(data.outputs.roadwork_score)
    outputs, labels = data.outputs.rows(order), data.labels[order]
    units = data.units(settings.unit, settings.seed).reordered(order)
    return [_option(outputs, labels, units, float(tau), agreement, settings) for tau in gates]


def _option(
    outputs: Stage1Outputs,
    labels: NDArray[np.int8],
    units: Units,
    tau: float,
    agreement: tuple[HeadAgreement, ...],
    settings: CalibrationSettings,
) -> _Option:
    """What a gate promises on rows whose roadwork scores ascend."""
    t1 = _exit_one(outputs, labels == 1, tau, agreement, settings.false_alarm_rate)
    rule = eligible(outputs, tau=tau, t1=t1, agreement=agreement)
    grid = _grid(rule, t1, settings.grid_size)
    claims = {settings.risk: settings.alpha, **settings.also}
    counted = {risk: sweep(onset(risk, labels, rule), units, grid) for risk in claims}
    ratio = np.max([(c.losses + 1) / (c.trials + 2) / claims[risk] for risk, c in counted.items()], axis=0)
    start = 0
    if STARTS_LATE & claims.keys():
        p = np.max([p_values(c.losses, c.trials, claims[risk]) for risk, c in counted.items()], axis=0)
        start = int(np.argmin(p))
    return _Option(tau, t1, grid, ratio, _row_coverage(rule, grid), start)


def _grid(rule: Eligible, t1: float, size: int) -> Floats:
    """Scores of gate-passing rows up to t1, evenly thinned by rank, and t1 itself; the scores ascend."""
    passing = rule.score[rule.gate]
    passing = passing[: np.searchsorted(passing, np.float32(t1))]
    drawn = passing[np.linspace(0, len(passing) - 1, min(size - 1, len(passing))).astype(np.intp)]
    ascending = np.append(drawn, np.float32(t1))
    grid: Floats = ascending[np.append(True, ascending[1:] != ascending[:-1])]
    return grid


def _exit_one(
    outputs: Stage1Outputs, positive: Mask, tau: float, agreement: tuple[HeadAgreement, ...], rate: float
) -> float:
    score, gate = outputs.roadwork_score, outputs.select_score >= tau
    negative = gate & ~positive
    _, one = consent(outputs, agreement)
    alarms = score[negative if one is None else negative & one]
    t1 = exit_one_threshold(alarms, math.floor(rate * int(negative.sum())))
    # Where the classes are far apart few false alarms are no reason to say roadwork just above the negatives.
    return max(t1, _cut_of_sorted(score[gate], positive[gate])) if gate.any() else float(score.max())


def _row_coverage(rule: Eligible, grid: Floats) -> NDArray[np.float64]:
    below = np.searchsorted(rule.score[rule.zero], grid, side="left")
    coverage: NDArray[np.float64] = (below + rule.one.sum()) / max(1, len(rule.score))
    return coverage


def ambiguous_cut(data: LabelledOutputs, rule: ExitRule | None, share: float) -> float:
    """Selection score below which a deferred image is AMBIGUOUS: the lowest `share` of what this rule defers.

    Args:
        data: rows of val_select.
        rule: the rule in force, None if everything is deferred.
        share: share of the deferred images.
    """
    select_score = data.outputs.select_score
    deferred = select_score if rule is None else select_score[rule.exit_labels(data.outputs) == DEFERRED]
    return float(np.quantile(deferred if len(deferred) else select_score.min(), share))

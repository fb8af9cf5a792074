"""Calibration of the exit rule: choose on val_select, certify on val_calib.

Algorithm B: tau, t1 and an increasing grid of t0 are frozen on val_select; t0 then walks up the grid on val_calib, each
step tested at the full level delta with the exact binomial p-value, and stops at the first step that is not certified.
With tau and t1 fixed the miss rate on exits grows with t0, so the walk stops where it should and costs no multiplicity.

References:
    Angelopoulos, Bates, Candes, Jordan, Lei (2021), Learn then Test, arXiv 2110.01052, fixed-sequence testing.
    Xu, Guo, Wei (2025), Selective conformal risk control, arXiv 2512.12844 (the setting).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stage1.artifacts import sha256_json
from stage1.binomial import p_value, trials_needed
from stage1.certificate import Binding, ExitRule, ScrcParams
from stage1.decisions import DEFERRED, Decisions
from stage1.outputs import Floats, Stage1Outputs
from stage1.policy import apply_exit_rule
from stage1.risks import Rate, Risk, Unit, Units, conditions, measure


class CalibrationSettings(BaseModel):
    """What is to be certified, and how the candidates are chosen.

    Attributes:
        alpha: highest miss rate on exits that may be certified.
        delta: one minus the confidence.
        unit: what is independent; `group` uses one exited positive a group.
        seed: seed of the draw of that positive.
        false_alarm_rate: share of gate-passing negatives of val_select that may exit as 1; sets t1.
        safety: tau is chosen where the smoothed miss rate on val_select is at most `safety * alpha`.
        grid_size: number of candidate values of t0.
        gate_size: number of candidate values of tau.
        ambiguous_share: share of the deferred images of val_select that are AMBIGUOUS.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alpha: float = Field(default=0.02, gt=0, lt=1)
    delta: float = Field(default=0.10, gt=0, lt=1)
    unit: Unit = "group"
    seed: int = 0
    false_alarm_rate: float = Field(default=0.02, ge=0, lt=1)
    safety: float = Field(default=0.75, gt=0, le=1)
    grid_size: int = Field(default=150, ge=2)
    gate_size: int = Field(default=25, ge=1)
    ambiguous_share: float = Field(default=0.10, ge=0, le=1)


@dataclass(frozen=True)
class LabelledOutputs:
    """Outputs of the compiled engine for labelled rows.

    Attributes:
        outputs: Stage-1 outputs of N images.
        labels: 0 or 1, `(N,)`.
        row_ids: unique id of each row.
        groups: group of each row.
    """

    outputs: Stage1Outputs
    labels: NDArray[np.int8]
    row_ids: Sequence[str]
    groups: Sequence[str]

    def __post_init__(self) -> None:
        lengths = {len(self.outputs), len(self.labels), len(self.row_ids), len(self.groups)}
        if len(lengths) != 1:
            raise ValueError(f"outputs, labels, row_ids and groups differ in length: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.labels)

    def units(self, unit: Unit, seed: int) -> Units:
        """The independent units of these rows."""
        return Units.of(self.row_ids, self.groups, unit=unit, seed=seed)

    @property
    def rows_sha256(self) -> str:
        """Hash of the sorted row ids."""
        return sha256_json(sorted(self.row_ids))


@dataclass(frozen=True)
class Candidates:
    """What val_select froze before val_calib is looked at.

    Attributes:
        tau: gate on the selection score.
        t1: exit-1 threshold.
        grid: increasing candidate values of t0, none above t1.
        ambiguous_below: cut of the AMBIGUOUS level.
        expected_coverage: exit coverage on val_select at the t0 it would choose itself, 0 if none looks safe.
    """

    tau: float
    t1: float
    grid: tuple[float, ...]
    ambiguous_below: float
    expected_coverage: float


def exit_one_threshold(negative_scores: Floats, rate: float) -> float:
    """Smallest t1 with which at most `rate` of these negatives exit as 1.

    Args:
        negative_scores: roadwork scores of gate-passing negatives, `(N,)`; with none, the answer is minus infinity.
        rate: allowed share.
    """
    if len(negative_scores) == 0:
        return -math.inf
    allowed = math.floor(rate * len(negative_scores))
    if allowed >= len(negative_scores):
        return -math.inf
    barrier = np.sort(negative_scores)[::-1][allowed]
    return float(np.nextafter(barrier, np.float32(np.inf)))


def select(data: LabelledOutputs, settings: CalibrationSettings) -> Candidates:
    """Choose tau, t1 and the grid of t0 on val_select.

    tau is the candidate with the highest exit coverage among those whose smoothed miss rate (k + 1) / (m + 2) can be
    brought to `safety * alpha`; if there is none, the one whose smoothed miss rate is lowest. Any choice is valid, a
    good one is powerful.

    Args:
        data: rows of val_select.
        settings: see `CalibrationSettings`.
    """
    units = data.units(settings.unit, settings.seed)
    score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
    shares = np.linspace(0, 0.6, settings.gate_size)
    options = [_option(data, units, float(tau), settings) for tau in np.unique(np.quantile(gate_score, shares))]
    best = max(options, key=lambda option: option.rank)
    labels = apply_exit_rule(score, gate_score, tau=best.tau, t0=best.t0 if best.safe else -math.inf, t1=best.t1)
    deferred = gate_score[labels == DEFERRED]
    cut = float(np.quantile(deferred, settings.ambiguous_share)) if len(deferred) else float(gate_score.min())
    return Candidates(best.tau, best.t1, best.grid, cut, max(best.coverage, 0.0))


@dataclass(frozen=True)
class _Option:
    tau: float
    t1: float
    grid: tuple[float, ...]
    t0: float
    safe: bool
    coverage: float
    smoothed: float

    @property
    def rank(self) -> tuple[bool, float]:
        return self.safe, self.coverage if self.safe else -self.smoothed


def _option(data: LabelledOutputs, units: Units, tau: float, settings: CalibrationSettings) -> _Option:
    score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
    gate = gate_score >= tau
    t1 = exit_one_threshold(score[gate & (data.labels == 0)], settings.false_alarm_rate)
    t1 = max(t1, float(score.min()))
    quantiles = np.quantile(score[gate], np.linspace(0, 1, settings.grid_size + 1)[1:])
    grid = tuple(float(t0) for t0 in np.unique(quantiles) if t0 <= t1) or (t1,)
    best_t0, best_coverage, lowest = grid[0], -1.0, 1.0
    for t0 in grid:
        labels = apply_exit_rule(score, gate_score, tau=tau, t0=t0, t1=t1)
        losses, trials = _count(data.labels, labels, gate, units)
        smoothed = (losses + 1) / (trials + 2)
        coverage = float(np.mean(labels != DEFERRED))
        lowest = min(lowest, smoothed)
        if smoothed <= settings.safety * settings.alpha and coverage > best_coverage:
            best_t0, best_coverage = t0, coverage
    return _Option(tau, t1, grid, best_t0, best_coverage >= 0, best_coverage, lowest)


def _count(
    truth: NDArray[np.int8], exit_label: NDArray[np.int8], gate: NDArray[np.bool_], units: Units
) -> tuple[int, int]:
    decisions = Decisions.from_exit_labels(exit_label, np.zeros(len(exit_label), bool))
    return units.count(*conditions(Risk.MISS_EXIT, truth, decisions, gate))


@dataclass(frozen=True)
class Walk:
    """Result of the fixed-sequence test.

    Attributes:
        t0: the last certified value, None if the first failed.
        tested: values tested, the failing one included.
        p_value: p-value at `t0`, or at the first value if nothing was certified.
        trials: exited positive units at that value.
        losses: how many of them were missed.
    """

    t0: float | None
    tested: int
    p_value: float
    trials: int
    losses: int


def walk(data: LabelledOutputs, candidates: Candidates, settings: CalibrationSettings) -> Walk:
    """Certify t0 on val_calib by fixed-sequence testing (Algorithm B).

    Args:
        data: rows of val_calib, seen by nothing before.
        candidates: what val_select froze.
        settings: alpha, delta and the unit.
    """
    units = data.units(settings.unit, settings.seed)
    score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
    gate = gate_score >= candidates.tau
    certified: Walk | None = None
    for tested, t0 in enumerate(candidates.grid, start=1):
        labels = apply_exit_rule(score, gate_score, tau=candidates.tau, t0=t0, t1=candidates.t1)
        losses, trials = _count(data.labels, labels, gate, units)
        p = p_value(losses, trials, settings.alpha)
        if p > settings.delta:
            return Walk(None, tested, p, trials, losses) if certified is None else _tested(certified, tested)
        certified = Walk(t0, tested, p, trials, losses)
    if certified is None:
        raise ValueError("the grid of t0 is empty")
    return certified


def _tested(certified: Walk, tested: int) -> Walk:
    return Walk(certified.t0, tested, certified.p_value, certified.trials, certified.losses)


@dataclass(frozen=True)
class CalibrationContext:
    """What a certificate records besides numbers.

    Attributes:
        engine_sha256: hash of the engine file that produced the outputs.
        preprocess_sha256: hash of the preprocess settings.
        prior_uses: earlier certifications on the same val_calib rows.
        code_version: version of this program.
    """

    engine_sha256: str
    preprocess_sha256: str
    prior_uses: int = 0
    code_version: str = field(default="")


def calibrate(
    val_select: LabelledOutputs, val_calib: LabelledOutputs, settings: CalibrationSettings, context: CalibrationContext
) -> ScrcParams:
    """Choose and certify an exit rule, or say why none can be certified.

    Args:
        val_select: rows that choose.
        val_calib: rows that certify; disjoint from val_select by group.
        settings: what is to be certified.
        context: what the certificate is bound to.

    Raises:
        ValueError: the two sets share a group.
    """
    shared = set(val_select.groups) & set(val_calib.groups)
    if shared:
        raise ValueError(f"val_select and val_calib share {len(shared)} groups, for example {min(shared)!r}")
    candidates = select(val_select, settings)
    units = val_calib.units(settings.unit, settings.seed)
    positives = len(units.representatives(val_calib.labels == 1))
    needed = trials_needed(0, settings.alpha, settings.delta)
    found = walk(val_calib, candidates, settings) if positives >= needed else None
    binding = Binding(
        engine_sha256=context.engine_sha256,
        preprocess_sha256=context.preprocess_sha256,
        val_select_sha256=val_select.rows_sha256,
        val_calib_sha256=val_calib.rows_sha256,
    )
    common = ScrcParams(
        status="INFEASIBLE",
        reason=_why_infeasible(found, positives, needed, settings),
        statement="Nothing could be certified: every image is deferred to Stage-2.",
        alpha=settings.alpha,
        delta=settings.delta,
        unit=settings.unit,
        seed=settings.seed,
        rule=None,
        ambiguous_below=candidates.ambiguous_below,
        grid=candidates.grid,
        tested=0 if found is None else found.tested,
        rows=len(val_calib),
        positives=positives,
        p_value=None if found is None else found.p_value,
        prior_uses=context.prior_uses,
        binding=binding,
        code_version=context.code_version,
    )
    if found is None or found.t0 is None:
        return common
    return _certified(common, val_calib, units, ExitRule(tau=candidates.tau, t0=found.t0, t1=candidates.t1))


def _certified(common: ScrcParams, data: LabelledOutputs, units: Units, rule: ExitRule) -> ScrcParams:
    score, gate_score = data.outputs.roadwork_score, data.outputs.select_score
    labels = apply_exit_rule(score, gate_score, tau=rule.tau, t0=rule.t0, t1=rule.t1)
    decisions = Decisions.from_exit_labels(labels, gate_score < common.ambiguous_below)
    risks = measure(data.labels, decisions, gate_score >= rule.tau, units, delta=common.delta)
    everything, positive = np.ones(len(data), bool), data.labels == 1
    coverage = Rate.count(*units.count(everything, decisions.exits), common.delta)
    exited = Rate.count(*units.count(positive, decisions.exits), common.delta)
    fields = common.model_dump(exclude={"seal"}) | {
        "status": "CERTIFIED",
        "reason": "",
        "rule": rule,
        "risks": risks,
        "exit_coverage": coverage,
        "positives_exited": exited,
        "statement": _statement(common, risks, coverage),
    }
    return ScrcParams.model_validate(fields)


def _statement(common: ScrcParams, risks: dict[Risk, Rate], coverage: Rate) -> str:
    miss, unit = risks[Risk.MISS_EXIT], "groups" if common.unit == "group" else "images"
    bounds = ", ".join(
        f"{risk} {risks[risk].upper:.4f}" for risk in (Risk.MISS_ALL, Risk.MISS_EXIT, Risk.FALSE_OMISSION)
    )
    confidence = f"{1 - common.delta:.0%}"
    reuse = f" These calibration rows had been used {common.prior_uses} times before." if common.prior_uses else ""
    return (
        f"With {confidence} confidence over the draw of the calibration {unit}, among roadwork images on which Stage-1 "
        f"exits, at most {common.alpha:.1%} are exited as non-roadwork (k = {miss.events} of m = {miss.trials}; exit "
        f"coverage {coverage.estimate or 0:.3f}, lower bound {coverage.lower:.3f}; {confidence} upper bounds: "
        f"{bounds}), assuming deployment {unit} are exchangeable with calibration {unit} and labels are correct. "
        f"It does not hold under drift.{reuse}"
    )


def _why_infeasible(found: Walk | None, positives: int, needed: int, settings: CalibrationSettings) -> str:
    unit = "groups" if settings.unit == "group" else "images"
    goal = f"a miss rate of {settings.alpha:.1%} at {1 - settings.delta:.0%} confidence"
    if found is None:
        return (
            f"val_calib has {positives} independent positive {unit}; certifying {goal} takes at least {needed} that "
            f"exit with no miss among them. Label at least {needed - positives} more roadwork {unit}."
        )
    required = trials_needed(found.losses, settings.alpha, settings.delta)
    return (
        f"at the most cautious threshold {found.losses} of {found.trials} exited positive {unit} are missed "
        f"(p = {found.p_value:.3f} > {settings.delta:g}); certifying {goal} with {found.losses} misses takes "
        f"{required} exited positive {unit}, or a model that misses fewer."
    )

"""Calibration of the exit rule: choose on val_select, certify on val_calib.

Algorithm B: tau, t1 and an increasing grid of t0 are frozen on val_select; t0 then walks up the grid on val_calib, each
step tested at the full level with the exact binomial p-value, and stops at the first step that is not certified. With
tau and t1 fixed the miss rate on exits grows with t0, so the walk stops where it should and costs no multiplicity.

Algorithm A takes t0 for D1 from an order statistic of the positives, without a grid. Algorithm C walks at several
gates, each at its share of the level, or certifies several risks at one rule, each at the full level: the claim that
all hold is wrong only where one of them is.

References:
    Angelopoulos, Bates, Candes, Jordan, Lei (2021), Learn then Test, arXiv 2110.01052, fixed-sequence testing.
    Bates, Angelopoulos, Lei, Malik, Jordan (2021), Distribution-free, risk-controlling prediction sets, 2101.02703.
    Xu, Guo, Wei (2025), Selective conformal risk control, arXiv 2512.12844 (the setting).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from stage1.certificate import statements
from stage1.certificate.budget import Budget
from stage1.certificate.labelled_outputs import LabelledOutputs, check_disjoint
from stage1.certificate.params import Binding, ScrcParams
from stage1.certificate.risks import Rate, Risk, Units, measure
from stage1.certificate.search.algorithms import (
    Claim,
    SearchOutcome,
    certify_chains,
    certify_coverage,
    certify_order_statistic,
)
from stage1.certificate.search.candidates import COVERAGE_MARGINS, ambiguous_cut, select, select_for_coverage
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import trials_needed
from stage1.certificate.stream import Era, Stream, even_weights
from stage1.decisions import Decisions
from stage1.errors import RowsError
from stage1.exit_rule import ExitRule, Mask
from stage1.tolerance import TOLERANCE

AMONG_POSITIVES = frozenset({Risk.MISS_ALL, Risk.MISS_GATED, Risk.MISS_EXIT})


@dataclass(frozen=True)
class CalibrationContext:
    """What a certificate records besides numbers.

    Attributes:
        engine_sha256: hash of the engine file that produced the outputs.
        preprocess_sha256: hash of the preprocess settings.
        prior_uses: earlier certifications on some of the same val_calib rows.
        code_version: version of this program.
        tolerance: largest difference of an output that is accepted from the engine on another machine.
        spent_before: the part of delta that they spent; None if each spent what these settings give it.
        calib_share: share of newly labelled images that reaches val_calib.
        sample: sentences about the rows that certify, for the statement.
        stream: what the rows of both sets went through.
        stream_weights: how often each era was drawn in a mixture, up to a factor.
    """

    engine_sha256: str
    preprocess_sha256: str
    prior_uses: int = 0
    code_version: str = ""
    tolerance: float = TOLERANCE
    spent_before: float | None = None
    calib_share: float = 1.0
    sample: str = ""
    stream: Stream = "originals"
    stream_weights: Mapping[Era, float] = field(default_factory=even_weights)

    def budget(self, settings: CalibrationSettings) -> Budget:
        """What this certification may spend."""
        return Budget(settings.spending, settings.delta, settings.looks, self.prior_uses, self.spent_before)


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
        stage1.errors.RowsError: the two sets share a group or a row, the column of subgroups is missing, or rows that
            share a group are taken for independent.
        stage1.errors.OutputsError: a head that must agree is missing.
    """
    check_disjoint(val_select, val_calib, ("val_select", "val_calib"))
    check_unit(settings, val_calib.groups)
    why_not = obstacle(val_select, val_calib, settings, context)
    if why_not:
        return infeasible(val_select, val_calib, settings, context, why_not)
    units = val_calib.units(settings.unit, settings.seed)
    found = _search(val_select, val_calib, units, settings, context)
    uncertified = _uncertified(val_select, val_calib, units, settings, context, found)
    if found.rule is None:
        held, budget = _countable(val_calib, units, settings.risk), context.budget(settings)
        after = statements.next_look(found.evidence, held, budget, settings, context.calib_share)
        fields = uncertified.model_dump() | {"reason": f"{found.reason} {after}".strip()}
        return ScrcParams.model_validate(fields)
    return _certified(uncertified, found.rule, val_calib, units, settings, context.sample)


def check_unit(settings: CalibrationSettings, groups: Sequence[str]) -> None:
    """Refuse to take dependent rows for independent ones.

    With three frames a group that depend on each other a certificate by row is wrong in 34 to 44 of 100 draws where 10
    are promised.

    Args:
        settings: what is the unit.
        groups: group of each row of val_calib.

    Raises:
        RowsError: the unit is a row, and rows share groups.
    """
    if settings.unit == "group" or settings.allow_row_unit:
        return
    name, most = max(Counter(groups).items(), key=lambda item: item[1], default=("", 0))
    if most > 1:
        raise RowsError(
            f"calibrate_scrc.unit=row takes every image for independent, but {len(groups)} images of val_calib are in "
            f"{len(set(groups))} groups, the largest with {most} ({name!r}): set unit=group, or "
            "calibrate_scrc.allow_row_unit=true if you know that they do not depend on each other"
        )


def obstacle(
    val_select: LabelledOutputs, val_calib: LabelledOutputs, settings: CalibrationSettings, context: CalibrationContext
) -> str | None:
    """Why nothing can be certified whatever the scores of val_calib are, None if something can.

    It looks at labels, groups and metadata alone, so to ask it is no use of the rows.

    Args:
        val_select: rows that choose.
        val_calib: rows that would certify; their outputs are not read.
        settings: what is to be certified.
        context: what was spent on these rows before.
    """
    for name, rows in (("val_select", val_select), ("val_calib", val_calib)):
        for label in (0, 1):
            if not (rows.labels == label).any():
                return statements.class_is_missing(name, label)
    budget, units = context.budget(settings), val_calib.units(settings.unit, settings.seed)
    if not budget.affordable:
        needed = trials_needed(0, settings.alpha, budget.level)
        what = statements.labelled(settings.risk, settings.unit)
        return statements.looks_are_used_up(budget, needed, what, context.calib_share)
    if settings.mode == "coverage":
        everything = _countable(val_calib, units, None)
        needed = trials_needed(0, 1 - settings.coverage, budget.level / len(COVERAGE_MARGINS))
        if everything >= needed:
            return None
        return statements.too_few_for_coverage(everything, needed, settings, context.calib_share)
    names = subgroups_of(val_select, val_calib, settings)
    claims = claims_of(val_calib, settings, budget.level, chains=settings.chains, subgroups=names)
    return _too_few(val_calib, units, claims, settings, context.calib_share)


def infeasible(
    val_select: LabelledOutputs,
    val_calib: LabelledOutputs,
    settings: CalibrationSettings,
    context: CalibrationContext,
    reason: str,
) -> ScrcParams:
    """Nothing is certified, for a reason that is known before the scores of val_calib are looked at.

    Args:
        val_select: rows that choose.
        val_calib: rows that would certify; their outputs are not read.
        settings: what was to be certified.
        context: what the parameters are bound to.
        reason: why, and what it would take.
    """
    units = val_calib.units(settings.unit, settings.seed)
    found = SearchOutcome(None, reason=reason)
    return ScrcParams.model_validate(_uncertified(val_select, val_calib, units, settings, context, found).model_dump())


def _uncertified(
    val_select: LabelledOutputs,
    val_calib: LabelledOutputs,
    units: Units,
    settings: CalibrationSettings,
    context: CalibrationContext,
    found: SearchOutcome,
) -> ScrcParams:
    """Everything but what is measured at a rule; checked and sealed when it is known what is certified."""
    main = next((e for e in found.evidence if e.risk is settings.risk and not e.subgroup), None)
    budget = context.budget(settings)
    binding = Binding(
        engine_sha256=context.engine_sha256,
        preprocess_sha256=context.preprocess_sha256,
        val_select_sha256=val_select.rows_sha256,
        val_calib_sha256=val_calib.rows_sha256,
    )
    return ScrcParams.model_construct(
        status="INFEASIBLE",
        reason=found.reason,
        statement=statements.NOTHING_CERTIFIED,
        mode=settings.mode,
        algorithm=settings.algorithm,
        multiplicity=settings.multiplicity,
        risk=settings.risk,
        alpha=main.bound if found.rule and main else settings.alpha,
        delta=settings.delta,
        spending=settings.spending,
        looks=settings.looks,
        spent=budget.level,
        spent_before=budget.spent,
        unit=settings.unit,
        seed=settings.seed,
        stream=context.stream,
        stream_weights=dict(context.stream_weights),
        rule=None,
        gate_score=settings.gate,
        ambiguous_below=ambiguous_cut(val_select, found.rule, settings.ambiguous_share, settings.gate),
        chains=found.chains,
        chosen=found.chosen,
        evidence=found.evidence,
        rows=len(val_calib),
        positives=len(units.representatives(val_calib.positive)),
        prior_uses=context.prior_uses,
        tolerance=context.tolerance,
        binding=binding,
        code_version=context.code_version,
    )


def _search(
    val_select: LabelledOutputs,
    val_calib: LabelledOutputs,
    units: Units,
    settings: CalibrationSettings,
    context: CalibrationContext,
) -> SearchOutcome:
    level, tolerance = context.budget(settings).level, context.tolerance
    if settings.mode == "coverage":
        everything = _countable(val_calib, units, None)
        candidates = select_for_coverage(val_select, settings, everything, tolerance)
        return certify_coverage(val_calib, units, candidates, settings, level)
    candidates = select(val_select, settings, tolerance)
    names = subgroups_of(val_select, val_calib, settings)
    claims = claims_of(val_calib, settings, level, chains=len(candidates.chains), subgroups=names)
    if settings.algorithm == "A":
        return certify_order_statistic(val_calib, units, candidates, claims[0], settings)
    return certify_chains(val_calib, units, candidates, claims, settings)


def subgroups_of(
    val_select: LabelledOutputs, val_calib: LabelledOutputs, settings: CalibrationSettings
) -> tuple[str, ...]:
    """Names of the subgroups of mode `balanced`: those of either set, so that none goes without a bound."""
    if settings.mode != "balanced":
        return ()
    known = [rows.column(settings.subgroups) for rows in (val_select, val_calib)]
    return tuple(str(name) for name in np.unique(np.concatenate(known)))


def claims_of(
    val_calib: LabelledOutputs,
    settings: CalibrationSettings,
    budget: float,
    *,
    chains: int,
    subgroups: Sequence[str] = (),
) -> tuple[Claim, ...]:
    """What is to hold at the rule, and at which level each claim is tested.

    A rule is certified only if every claim is proved, so what is said is wrong only where a claim that is false was
    proved: each may be tested at the whole level, however many there are (intersection-union test; Berger 1982).

    Args:
        val_calib: rows that certify.
        settings: what is to be certified.
        budget: the part of delta that may be spent.
        chains: number of gates that share it.
        subgroups: names of the subgroups that each need a bound.
    """
    level = budget / chains if settings.multiplicity == "chains" else budget
    claims = [Claim(settings.risk, settings.alpha, level)]
    claims += [Claim(risk, bound, level) for risk, bound in settings.also.items()]
    if subgroups:
        column, bound = val_calib.column(settings.subgroups), settings.subgroup_slack * settings.alpha
        claims += [Claim(settings.risk, bound, level, n, column == n) for n in subgroups]
    return tuple(claims)


def _too_few(
    val_calib: LabelledOutputs, units: Units, claims: Sequence[Claim], settings: CalibrationSettings, share: float
) -> str | None:
    for claim in claims:
        there = _countable(val_calib, units, claim.risk, claim.among)
        needed = trials_needed(0, claim.bound, claim.level)
        if there < needed:
            return statements.too_few_units(
                claim.risk, claim.bound, claim.level, claim.subgroup, there, needed, settings, share
            )
    return None


def _countable(val_calib: LabelledOutputs, units: Units, risk: Risk | None, among: Mask | None = None) -> int:
    """How many units a risk can be counted on at most, whatever the scores are; risk None for exit coverage."""
    counted = val_calib.positive if risk in AMONG_POSITIVES else np.ones(len(val_calib), bool)
    return len(units.representatives(counted if among is None else counted & among))


def bound_delta(params: ScrcParams) -> float:
    """One minus the confidence of a bound at the rule, paid for by the choice among several chains or pairs."""
    pairs = sum(len(chain.grid) for chain in params.chains)
    choices = pairs if params.multiplicity == "holm" else len(params.chains)
    return params.spent / max(1, choices)


def _certified(
    uncertified: ScrcParams,
    rule: ExitRule,
    data: LabelledOutputs,
    units: Units,
    settings: CalibrationSettings,
    sample: str,
) -> ScrcParams:
    labels = rule.exit_labels(data.outputs)
    decisions = Decisions.from_exit_labels(labels, np.zeros(len(labels), bool))
    delta = bound_delta(uncertified)
    risks = measure(data.labels, decisions, rule.gate(data.outputs), units, delta=delta)
    coverage = Rate.count(*units.count(np.ones(len(data), bool), decisions.exits), delta)
    exited = Rate.count(*units.count(data.positive, decisions.exits), delta)
    by_image = int(np.sum(data.positive & (labels == 0))), int(np.sum(data.positive & decisions.exits))
    fields = uncertified.model_dump(exclude={"seal"}) | {
        "status": "CERTIFIED",
        "rule": rule,
        "risks": risks,
        "exit_coverage": coverage,
        "positives_exited": exited,
        "bound_delta": delta,
        "subgroups": {e.subgroup: Rate.count(e.events, e.trials, e.level) for e in uncertified.evidence if e.subgroup},
    }
    named = uncertified.model_copy(update={"bound_delta": delta})
    words = statements.statement(named, risks, coverage, exited, by_image, settings)
    fields["statement"] = f"{words} {sample}".rstrip()
    return ScrcParams.model_validate(fields)

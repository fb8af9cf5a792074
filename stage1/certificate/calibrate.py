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

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stage1.certificate import statements
from stage1.certificate.binomial import losses_allowed, p_values, trials_needed, upper_bound
from stage1.certificate.candidates import Candidates, ambiguous_cut, select, select_for_coverage
from stage1.certificate.labelled_outputs import LabelledOutputs, check_disjoint
from stage1.certificate.multiplicity import holm, spent
from stage1.certificate.params import Binding, Chain, Evidence, ScrcParams
from stage1.certificate.risks import Rate, Risk, Units, measure, onset
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.threshold_counts import Counts, sweep
from stage1.decisions import Decisions
from stage1.exit_rule import ExitRule, HeadAgreement, Mask, eligible

AMONG_POSITIVES = frozenset({Risk.MISS_ALL, Risk.MISS_GATED, Risk.MISS_EXIT})


@dataclass(frozen=True)
class Claim:
    """A risk that is to be certified.

    Attributes:
        risk: which.
        bound: at most this.
        level: level of the test.
        subgroup: name of the subgroup it speaks of, empty for all rows.
        among: rows of that subgroup, None for all.
    """

    risk: Risk
    bound: float
    level: float
    subgroup: str = ""
    among: Mask | None = None


@dataclass(frozen=True)
class Walk:
    """What a chain of candidates was found to be on val_calib.

    Attributes:
        chain: the chain, with the number of values tested.
        certified: number of values certified.
        counts: losses and trials of each claim along the grid.
        p_values: p-value of each claim along the grid, `(claims, J)`.
    """

    chain: Chain
    certified: int
    counts: tuple[Counts, ...]
    p_values: NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """What a search on val_calib ended at.

    Attributes:
        rule: the certified rule, None if there is none.
        chains: what was tested.
        chosen: the chain that the rule comes from.
        evidence: the claims at the rule, or at the most cautious rule.
        reason: why nothing is certified, and what it would take; empty if something is.
    """

    rule: ExitRule | None
    chains: tuple[Chain, ...] = ()
    chosen: int = 0
    evidence: tuple[Evidence, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class CalibrationContext:
    """What a certificate records besides numbers.

    Attributes:
        engine_sha256: hash of the engine file that produced the outputs.
        preprocess_sha256: hash of the preprocess settings.
        prior_uses: earlier certifications on some of the same val_calib rows.
        code_version: version of this program.
    """

    engine_sha256: str
    preprocess_sha256: str
    prior_uses: int = 0
    code_version: str = ""


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
        stage1.errors.RowsError: the two sets share a group or a row, or the column of subgroups is missing.
        stage1.errors.OutputsError: a head that must agree is missing.
    """
    check_disjoint(val_select, val_calib, ("val_select", "val_calib"))
    budget = spent(settings.delta, context.prior_uses) if settings.spending == "nights" else settings.delta
    units = val_calib.units(settings.unit, settings.seed)
    found = _search(val_select, val_calib, units, settings, budget)
    binding = Binding(
        engine_sha256=context.engine_sha256,
        preprocess_sha256=context.preprocess_sha256,
        val_select_sha256=val_select.rows_sha256,
        val_calib_sha256=val_calib.rows_sha256,
    )
    main = next((e for e in found.evidence if e.risk is settings.risk and not e.subgroup), None)
    uncertified = ScrcParams(
        status="INFEASIBLE",
        reason=found.reason,
        statement=statements.NOTHING_CERTIFIED,
        mode=settings.mode,
        algorithm=settings.algorithm,
        multiplicity=settings.multiplicity,
        risk=settings.risk,
        alpha=main.bound if found.rule and main else settings.alpha,
        delta=settings.delta,
        spent=budget,
        unit=settings.unit,
        seed=settings.seed,
        rule=None,
        ambiguous_below=ambiguous_cut(val_select, found.rule, settings.ambiguous_share),
        chains=found.chains,
        chosen=found.chosen,
        evidence=found.evidence,
        rows=len(val_calib),
        positives=len(units.representatives(val_calib.positive)),
        prior_uses=context.prior_uses,
        binding=binding,
        code_version=context.code_version,
    )
    return uncertified if found.rule is None else _certified(uncertified, found.rule, val_calib, units, settings)


def _search(
    val_select: LabelledOutputs,
    val_calib: LabelledOutputs,
    units: Units,
    settings: CalibrationSettings,
    budget: float,
) -> Outcome:
    for name, rows in (("val_select", val_select), ("val_calib", val_calib)):
        for label in (0, 1):
            if not (rows.labels == label).any():
                return Outcome(None, reason=statements.class_is_missing(name, label))
    if settings.mode == "coverage":
        everything = len(units.representatives(np.ones(len(val_calib), bool)))
        candidates = select_for_coverage(val_select, settings, everything)
        return certify_coverage(val_calib, units, candidates, settings, budget)
    candidates = select(val_select, settings)
    names = subgroups_of(val_select, val_calib, settings)
    claims = claims_of(val_calib, settings, budget, chains=len(candidates.chains), subgroups=names)
    short = _too_few(val_calib, units, claims, settings)
    if short:
        return Outcome(None, chains=candidates.chains, reason=short)
    if settings.algorithm == "A":
        return certify_order_statistic(val_calib, units, candidates, claims[0])
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
        claims += [Claim(settings.risk, bound, level / len(subgroups), n, column == n) for n in subgroups]
    return tuple(claims)


def _too_few(
    val_calib: LabelledOutputs, units: Units, claims: Sequence[Claim], settings: CalibrationSettings
) -> str | None:
    """Why no rule whatever could be certified, before any score is looked at."""
    for claim in claims:
        counted = val_calib.positive if claim.risk in AMONG_POSITIVES else np.ones(len(val_calib), bool)
        there = len(units.representatives(counted if claim.among is None else counted & claim.among))
        needed = trials_needed(0, claim.bound, claim.level)
        if there < needed:
            return statements.too_few_units(
                claim.risk, claim.bound, claim.level, claim.subgroup, there, needed, settings
            )
    return None


def walk(
    data: LabelledOutputs,
    units: Units,
    chain: Chain,
    claims: Sequence[Claim],
    agreement: tuple[HeadAgreement, ...] = (),
) -> Walk:
    """Certify t0 on val_calib by fixed-sequence testing (Algorithm B).

    Args:
        data: rows of val_calib, seen by nothing before.
        units: their independent units.
        chain: what val_select froze.
        claims: what must hold at a value of t0 for the walk to go on.
        agreement: heads that must agree.

    Raises:
        ValueError: the grid is empty.
    """
    if not chain.grid:
        raise ValueError("the grid of t0 is empty")
    grid = np.asarray(chain.grid, np.float32)
    rule = eligible(data.outputs, tau=chain.tau, t1=chain.t1, agreement=agreement)
    counts = tuple(sweep(onset(c.risk, data.labels, rule), units, grid, among=c.among) for c in claims)
    p = np.array([p_values(k.losses, k.trials, c.bound) for c, k in zip(claims, counts, strict=True)])
    levels = np.array([claim.level for claim in claims])
    failed = np.flatnonzero(~(p <= levels[:, None]).all(axis=0))
    certified = int(failed[0]) if len(failed) else len(grid)
    tested = min(certified + 1, len(grid))
    return Walk(chain.model_copy(update={"tested": tested}), certified, counts, p)


def certify_chains(
    data: LabelledOutputs,
    units: Units,
    candidates: Candidates,
    claims: Sequence[Claim],
    settings: CalibrationSettings,
) -> Outcome:
    """Algorithms B and C: of the rules that are certified, the one with the highest exit coverage.

    Args:
        data: rows of val_calib.
        units: their independent units.
        candidates: what val_select froze.
        claims: what must hold, at the level of one chain, or of all of them if the multiplicity is `holm`.
        settings: how several gates are paid for.
    """
    walks = [walk(data, units, chain, claims, candidates.agreement) for chain in candidates.chains]
    if settings.multiplicity == "holm":
        return _holm(data, candidates, walks, claims)
    chains = tuple(found.chain for found in walks)
    ends = [(i, found.certified - 1) for i, found in enumerate(walks) if found.certified]
    if not ends:
        # The chain that came closest says what it would take.
        closest = min(range(len(walks)), key=lambda i: float(walks[i].p_values[:, 0].max()))
        evidence = _evidence(walks[closest], 0, claims)
        return Outcome(None, chains, closest, evidence, statements.not_proved(evidence, settings))
    chosen, at = max(ends, key=lambda end: _exits(data, candidates, *end))
    rule = _rule(candidates, chosen, at)
    return Outcome(rule, chains, chosen, _evidence(walks[chosen], at, claims))


def _holm(data: LabelledOutputs, candidates: Candidates, walks: Sequence[Walk], claims: Sequence[Claim]) -> Outcome:
    places = [(i, j) for i, found in enumerate(walks) for j in range(len(found.chain.grid))]
    chains = tuple(w.chain.model_copy(update={"tested": len(w.chain.grid)}) for w in walks)
    # A rule's claims share one level, and all of them hold or the rule is wrong: the largest p-value decides.
    p = np.concatenate([found.p_values.max(axis=0) for found in walks])
    granted = holm(p, claims[0].level)
    if not granted.any():
        best = int(np.argmin(p))
        claims = [replace(claim, level=claim.level / len(p)) for claim in claims]
        evidence = _evidence(walks[places[best][0]], places[best][1], claims)
        return Outcome(None, chains, places[best][0], evidence, statements.no_pair_proved(len(p), evidence))
    best = max(np.flatnonzero(granted).tolist(), key=lambda i: _exits(data, candidates, *places[i]))
    claims = [replace(claim, level=float(granted[best])) for claim in claims]
    chosen, at = places[best]
    return Outcome(_rule(candidates, chosen, at), chains, chosen, _evidence(walks[chosen], at, claims))


def _rule(candidates: Candidates, chosen: int, at: int) -> ExitRule:
    chain = candidates.chains[chosen]
    return ExitRule(tau=chain.tau, t0=chain.grid[at], t1=chain.t1, agreement=candidates.agreement)


def _exits(data: LabelledOutputs, candidates: Candidates, chosen: int, at: int) -> int:
    return int(np.sum(_rule(candidates, chosen, at).exit_labels(data.outputs) >= 0))


def _evidence(found: Walk, at: int, claims: Sequence[Claim]) -> tuple[Evidence, ...]:
    return tuple(
        Evidence.of(
            claim.risk,
            (int(counts.losses[at]), int(counts.trials[at])),
            bound=claim.bound,
            level=claim.level,
            subgroup=claim.subgroup,
        )
        for claim, counts in zip(claims, found.counts, strict=True)
    )


def certify_order_statistic(data: LabelledOutputs, units: Units, candidates: Candidates, claim: Claim) -> Outcome:
    """Algorithm A: t0 is the (k + 1)-th lowest score of the positives, k the number of misses that are allowed.

    D1 of that threshold is Beta(k + 1, n1 - k) for continuous scores, so the certificate is exact and costs no grid.

    Args:
        data: rows of val_calib.
        units: their independent units.
        candidates: gate and t1 from val_select.
        claim: D1 and its level.
    """
    chain = candidates.chains[0].model_copy(update={"grid": (), "tested": 0})
    rule = eligible(data.outputs, tau=chain.tau, t1=chain.t1, agreement=candidates.agreement)
    rows = units.representatives(data.positive)
    scores = np.sort(np.where(rule.zero[rows], rule.score[rows], np.float32(np.inf)))
    allowed = losses_allowed(len(rows), claim.bound, claim.level)
    t0 = min(float(scores[allowed]) if allowed < len(scores) else math.inf, chain.t1)
    losses = int(np.sum(scores < np.float32(t0)))
    evidence = Evidence.of(claim.risk, (losses, len(rows)), bound=claim.bound, level=claim.level)
    return Outcome(
        ExitRule(tau=chain.tau, t0=t0, t1=chain.t1, agreement=candidates.agreement), (chain,), 0, (evidence,)
    )


def certify_coverage(
    data: LabelledOutputs, units: Units, candidates: Candidates, settings: CalibrationSettings, budget: float
) -> Outcome:
    """Mode `coverage`: among a few rules with certified exit coverage, the one with the lowest certified risk.

    Every rule gets a lower bound on its coverage and an upper bound on its risk, all of them at once by Bonferroni, so
    the choice among them costs nothing more.

    Args:
        data: rows of val_calib.
        units: their independent units.
        candidates: rules that val_select froze, one value of t0 a chain.
        settings: the coverage and the risk.
        budget: the part of delta that may be spent.
    """
    level = budget / (2 * len(candidates.chains))
    chains = tuple(chain.model_copy(update={"tested": 1}) for chain in candidates.chains)
    proved: list[tuple[float, int, tuple[Evidence, ...]]] = []
    attempts: list[Evidence] = []
    for number, chain in enumerate(chains):
        rule = eligible(data.outputs, tau=chain.tau, t1=chain.t1, agreement=candidates.agreement)
        grid = np.asarray(chain.grid, np.float32)
        exits, misses = (
            (int(c.losses[0]), int(c.trials[0]))
            for c in (sweep(onset(risk, data.labels, rule), units, grid) for risk in (None, settings.risk))
        )
        covered = Evidence.of(None, exits, bound=settings.coverage, level=level)
        attempts.append(covered)
        # The bound itself would leave the p-value at the level or a rounding error above it.
        bound = upper_bound(*misses, level) * (1 + 1e-9)
        if covered.holds and bound < 1:
            risk = Evidence.of(settings.risk, misses, bound=bound, level=level)
            proved.append((bound, number, (risk, covered)))
    if not proved:
        best = min(range(len(attempts)), key=lambda i: attempts[i].p_value)
        return Outcome(None, chains, best, (attempts[best],), statements.coverage_not_proved(attempts[best]))
    _, chosen, evidence = min(proved)
    return Outcome(_rule(replace(candidates, chains=chains), chosen, 0), chains, chosen, evidence)


def bound_delta(params: ScrcParams) -> float:
    """One minus the confidence of a bound at the rule, paid for by the choice among several chains or pairs."""
    pairs = sum(len(chain.grid) for chain in params.chains)
    choices = pairs if params.multiplicity == "holm" else len(params.chains)
    return params.spent / max(1, choices)


def _certified(
    uncertified: ScrcParams, rule: ExitRule, data: LabelledOutputs, units: Units, settings: CalibrationSettings
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
    fields["statement"] = statements.statement(named, risks, coverage, exited, by_image, settings)
    return ScrcParams.model_validate(fields)

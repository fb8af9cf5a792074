"""The searches of calibration: fixed sequences (A, B), several chains at once (C), and certified coverage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stage1.certificate import statements
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.params import Chain, Evidence
from stage1.certificate.risks import Risk, Units, onset
from stage1.certificate.search.candidates import Candidates
from stage1.certificate.search.threshold_counts import Counts, sweep
from stage1.certificate.settings import CalibrationSettings
from stage1.certificate.statistics.binomial import losses_allowed, p_values, upper_bound
from stage1.certificate.statistics.multiplicity import holm
from stage1.exit_rule import ExitRule, HeadAgreement, Mask, eligible
from stage1.outputs import GateScore


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
class SearchOutcome:
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


def walk(
    data: LabelledOutputs,
    units: Units,
    chain: Chain,
    claims: Sequence[Claim],
    agreement: tuple[HeadAgreement, ...] = (),
    gate_score: GateScore = "select_score",
) -> Walk:
    """Certify t0 on val_calib by fixed-sequence testing (Algorithm B).

    Args:
        data: rows of val_calib, seen by nothing before.
        units: their independent units.
        chain: what val_select froze.
        claims: what must hold at a value of t0 for the walk to go on.
        agreement: heads that must agree.
        gate_score: what the gate asks.

    Raises:
        ValueError: the grid is empty.
    """
    if not chain.grid:
        raise ValueError("the grid of t0 is empty")
    grid = np.asarray(chain.grid, np.float32)
    rule = eligible(data.outputs, tau=chain.tau, t1=chain.t1, agreement=agreement, gate_score=gate_score)
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
) -> SearchOutcome:
    """Algorithms B and C: of the rules that are certified, the one with the highest exit coverage.

    Args:
        data: rows of val_calib.
        units: their independent units.
        candidates: what val_select froze.
        claims: what must hold, at the level of one chain, or of all of them if the multiplicity is `holm`.
        settings: how several gates are paid for.
    """
    walks = [
        walk(data, units, chain, claims, candidates.agreement, candidates.gate_score) for chain in candidates.chains
    ]
    if settings.multiplicity == "holm":
        return _holm(data, candidates, walks, claims)
    chains = tuple(found.chain for found in walks)
    ends = [(i, found.certified - 1) for i, found in enumerate(walks) if found.certified]
    if not ends:
        # The chain that came closest says what it would take.
        closest = min(range(len(walks)), key=lambda i: float(walks[i].p_values[:, 0].max()))
        evidence = _evidence(walks[closest], 0, claims)
        return SearchOutcome(None, chains, closest, evidence, statements.not_proved(evidence, settings))
    chosen, at = max(ends, key=lambda end: _exits(data, candidates, *end))
    rule = _rule(candidates, chosen, at)
    return SearchOutcome(rule, chains, chosen, _evidence(walks[chosen], at, claims))


def _holm(
    data: LabelledOutputs, candidates: Candidates, walks: Sequence[Walk], claims: Sequence[Claim]
) -> SearchOutcome:
    places = [(i, j) for i, found in enumerate(walks) for j in range(len(found.chain.grid))]
    chains = tuple(w.chain.model_copy(update={"tested": len(w.chain.grid)}) for w in walks)
    # A rule's claims share one level, and all of them hold or the rule is wrong: the largest p-value decides.
    p = np.concatenate([found.p_values.max(axis=0) for found in walks])
    granted = holm(p, claims[0].level)
    if not granted.any():
        best = int(np.argmin(p))
        claims = [replace(claim, level=claim.level / len(p)) for claim in claims]
        evidence = _evidence(walks[places[best][0]], places[best][1], claims)
        return SearchOutcome(None, chains, places[best][0], evidence, statements.no_pair_proved(len(p), evidence))
    exits = np.concatenate([_exits_along(data, chain, candidates) for chain in candidates.chains])
    best = max(np.flatnonzero(granted).tolist(), key=exits.__getitem__)
    claims = [replace(claim, level=float(granted[best])) for claim in claims]
    chosen, at = places[best]
    return SearchOutcome(_rule(candidates, chosen, at), chains, chosen, _evidence(walks[chosen], at, claims))


def _rule(candidates: Candidates, chosen: int, at: int) -> ExitRule:
    chain = candidates.chains[chosen]
    return candidates.rule(chain, chain.grid[at])


def _exits(data: LabelledOutputs, candidates: Candidates, chosen: int, at: int) -> int:
    return int(np.sum(_rule(candidates, chosen, at).exit_labels(data.outputs) >= 0))


def _exits_along(data: LabelledOutputs, chain: Chain, candidates: Candidates) -> NDArray[np.intp]:
    """How many rows exit at each t0 of a chain."""
    rule = candidates.eligible(data.outputs, chain)
    below = np.searchsorted(np.sort(rule.score[rule.zero]), np.asarray(chain.grid, np.float32), side="left")
    exits: NDArray[np.intp] = below + np.count_nonzero(rule.one)
    return exits


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


def certify_order_statistic(
    data: LabelledOutputs, units: Units, candidates: Candidates, claim: Claim, settings: CalibrationSettings
) -> SearchOutcome:
    """Algorithm A: t0 is just below the (k + 1)-th lowest score of the positives, k the number of misses allowed.

    D1 of that score is Beta(k + 1, n1 - k) where scores are continuous, so the certificate is exact. The threshold is
    the next value of the grid below it: it exits less, and lies on no score.

    Args:
        data: rows of val_calib.
        units: their independent units.
        candidates: gate, t1 and grid from val_select.
        claim: D1 and its level.
        settings: what was asked for.
    """
    chain = candidates.chains[0]
    rule = candidates.eligible(data.outputs, chain)
    rows = units.representatives(data.positive)
    scores = np.sort(np.where(rule.zero[rows], rule.score[rows], np.float32(np.inf)))
    allowed = losses_allowed(len(rows), claim.bound, claim.level)
    highest = float(scores[allowed]) if allowed < len(scores) else math.inf
    at = max(0, int(np.searchsorted(np.asarray(chain.grid), highest, side="right")) - 1)
    losses = int(np.sum(scores < np.float32(chain.grid[at])))
    evidence = (Evidence.of(claim.risk, (losses, len(rows)), bound=claim.bound, level=claim.level),)
    if not evidence[0].holds:
        # Roadwork of val_calib scores lower than everything in val_select.
        return SearchOutcome(None, (chain,), 0, evidence, statements.not_proved(evidence, settings))
    return SearchOutcome(_rule(candidates, 0, at), (chain,), 0, evidence)


def certify_coverage(
    data: LabelledOutputs, units: Units, candidates: Candidates, settings: CalibrationSettings, budget: float
) -> SearchOutcome:
    """Mode `coverage`: among a few rules with certified exit coverage, the one with the lowest certified risk.

    Every rule gets a lower bound on its coverage and an upper bound on its risk, all rules at once by Bonferroni, so
    the choice among them costs nothing more. The two bounds of a rule share no level: either its coverage is below what
    is claimed, and then the first must have failed, or it is not, and then only the second can be wrong.

    Args:
        data: rows of val_calib.
        units: their independent units.
        candidates: rules that val_select froze, one value of t0 a chain.
        settings: the coverage and the risk.
        budget: the part of delta that may be spent.
    """
    level = budget / len(candidates.chains)
    chains = tuple(chain.model_copy(update={"tested": 1}) for chain in candidates.chains)
    proved: list[tuple[float, int, tuple[Evidence, ...]]] = []
    attempts: list[Evidence] = []
    for number, chain in enumerate(chains):
        rule = candidates.eligible(data.outputs, chain)
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
        return SearchOutcome(None, chains, best, (attempts[best],), statements.coverage_not_proved(attempts[best]))
    _, chosen, evidence = min(proved)
    return SearchOutcome(_rule(replace(candidates, chains=chains), chosen, 0), chains, chosen, evidence)

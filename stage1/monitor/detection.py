"""How long it takes to notice that a certificate no longer holds, and what it costs in labels.

References:
    Lorden (1971): a test of power one needs about log(1 / delta) / KL trials.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from stage1.errors import SettingsError
from stage1.monitor.risk_monitor import MonitorTerms

# What the tests take more than the bound, at one, three and eight per cent: 1.05 to 1.4 in simulation.
OVERHEAD = 1.25


@dataclass(frozen=True)
class Traffic:
    """What arrives.

    Attributes:
        requests: places that are asked about, a day.
        prevalence: share of them that shows roadwork.
        exit_share: share of the roadwork that exits.
        exit_share_negatives: share of the rest that exits.
        specificity: share of pictures without roadwork of which Stage-2 says so.
        sensitivity: share of those with roadwork of which it says so.
    """

    requests: float
    prevalence: float = 0.3
    exit_share: float = 0.85
    exit_share_negatives: float = 0.8
    specificity: float = 0.95
    sensitivity: float = 0.95


@dataclass(frozen=True)
class Detection:
    """What it takes to notice one risk.

    Attributes:
        rate: the risk.
        days: until half of all streams have raised the alarm, about; None if it is not above the limit.
        audits: a day.
        labels: by people, a day.
    """

    rate: float
    days: float | None
    audits: float
    labels: float


def detection(rate: float, traffic: Traffic, terms: MonitorTerms) -> Detection:
    """How long it takes to notice that the miss rate on exits is `rate`, from the first day on.

    Args:
        rate: the miss rate on exits.
        traffic: what arrives.
        terms: what is watched; D2.

    Raises:
        SettingsError: a number is not in its range.
    """
    if not 0 < rate < 1:
        raise SettingsError(f"the miss rate is {rate:g}: it must be between 0 and 1")
    shares = terms.shares
    exited = traffic.requests * traffic.prevalence * traffic.exit_share
    negatives = traffic.requests * (1 - traffic.prevalence) * traffic.exit_share_negatives
    misses, hits = exited * rate, exited * (1 - rate)
    audited = shares.exit0 * (misses + negatives), shares.exit1 * hits
    flagged = shares.exit0 * (misses * traffic.sensitivity + negatives * (1 - traffic.specificity))
    contradicted = audited[1] * (1 - traffic.sensitivity) if shares.all_hits else 0.0
    labels = flagged + contradicted + shares.labelled * (sum(audited) - flagged - contradicted)
    # What Stage-2 does not see is no trial: of misses and of hits alike, so the rate stays what it is.
    seen = 1.0 if shares.all_hits else traffic.sensitivity
    gain = _growth(rate, terms)
    trials = seen * sum((shares.exit0 * misses, shares.exit1 * hits))
    days = None if gain <= 0 or trials <= 0 else OVERHEAD * math.log(1 / terms.test.delta) / gain / trials
    return Detection(rate, days, sum(audited), labels)


def _growth(rate: float, terms: MonitorTerms) -> float:
    """Log wealth gained by an audited trial on average: a relative entropy of the rates under unequal shares."""
    shares = terms.shares

    def tilted(risk: float) -> float:
        missed = shares.exit0 * risk
        return missed / (missed + shares.exit1 * (1 - risk))

    if rate <= terms.alpha:
        return 0.0
    p, q = tilted(rate), tilted(terms.alpha)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

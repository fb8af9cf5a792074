"""The risk definitions of a selective exit, as exact counts with exact bounds.

Every risk is a rate P(loss | condition). With `unit="group"` one row of each group, drawn by a hash that knows nothing
of scores or labels, stands for the group, because frames of one place are not independent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from stage1.certificate.statistics.binomial import lower_bound, upper_bound
from stage1.decisions import DEFERRED, Decisions
from stage1.exit_rule import Eligible, Mask
from stage1.outputs import Floats

Unit = Literal["row", "group"]


class Risk(StrEnum):
    """What is counted as a loss, and among what."""

    MISS_ALL = "D1"
    """Exited as 0, among all positives."""
    MISS_GATED = "D2'"
    """Exited as 0, among positives that pass the gate."""
    MISS_EXIT = "D2"
    """Exited as 0, among positives that exit: the miss rate on exits."""
    FALSE_OMISSION = "D3"
    """Positive, among rows that exit as 0."""
    ERROR_EXIT = "D4"
    """Wrong label, among rows that exit."""
    MISS_JOINT = "D5"
    """Positive and exited as 0, among all rows."""


class Rate(BaseModel):
    """An observed rate with its one-sided Clopper-Pearson bounds.

    Attributes:
        events: observed events.
        trials: independent trials among which they were counted.
        lower: lower bound at the stated confidence, 0 without trials.
        upper: upper bound at the stated confidence, 1 without trials.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int = Field(ge=0)
    trials: int = Field(ge=0)
    lower: float = Field(ge=0, le=1)
    upper: float = Field(ge=0, le=1)

    @classmethod
    def count(cls, events: int, trials: int, delta: float) -> Rate:
        """The rate `events / trials` with both one-sided bounds at confidence `1 - delta`."""
        lower, upper = lower_bound(events, trials, delta), upper_bound(events, trials, delta)
        return cls(events=events, trials=trials, lower=lower, upper=upper)

    def follows(self, delta: float) -> bool:
        """Whether the bounds are those of the counts at confidence `1 - delta`, but for the last bits.

        Of the bounds of scipy 1.14.1 and 1.17.1 one in five differs, by up to 2e-15 of it.
        """
        again = Rate.count(self.events, self.trials, delta)
        pairs = (self.lower, again.lower), (self.upper, again.upper)
        return all(math.isclose(told, found, rel_tol=1e-9) for told, found in pairs)

    @property
    def estimate(self) -> float | None:
        """Observed rate, or None without trials."""
        return self.events / self.trials if self.trials else None


@dataclass(frozen=True)
class Units:
    """Which rows are dependent, and in what order a group's rows may stand for it.

    Attributes:
        codes: integer group of each row, `(N,)`.
        order: row indices in the order in which rows may stand for their group, `(N,)`.
        alone: every row is its own group.
    """

    codes: NDArray[np.intp]
    order: NDArray[np.intp]
    alone: bool = False

    @classmethod
    def of(cls, row_ids: Sequence[str], groups: Sequence[str], *, unit: Unit, seed: int) -> Units:
        """Units of a list of rows.

        Args:
            row_ids: unique id of each row.
            groups: group of each row.
            unit: with `row`, every row is its own group.
            seed: enters the hash, so that the draw can be repeated.
        """
        if unit == "row":
            # Nothing is drawn, so nothing need be hashed.
            return cls(np.arange(len(row_ids)), np.arange(len(row_ids)), alone=True)
        codes = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)[1].astype(np.intp)
        keys = [hashlib.blake2b(f"{seed}\0{row}".encode(), digest_size=16).digest() for row in row_ids]
        order = np.asarray(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.intp)
        return cls(codes.reshape(-1), order)

    def reordered(self, index: NDArray[np.intp]) -> Units:
        """The same units of the same rows, when the rows are put in the order of `index`."""
        place = np.empty_like(index)
        place[index] = np.arange(len(index))
        return Units(self.codes[index], place[self.order], self.alone)

    def representatives(self, mask: Mask) -> NDArray[np.intp]:
        """One row of `mask` for each group that has any: the first in the order of the draw."""
        if self.alone:
            return np.flatnonzero(mask)
        candidates = self.order[mask[self.order]]
        first = np.unique(self.codes[candidates], return_index=True)[1]
        chosen: NDArray[np.intp] = candidates[first]
        return chosen

    def count(self, condition: Mask, loss: Mask) -> tuple[int, int]:
        """Losses and trials among the rows of `condition`, one a group."""
        rows = self.representatives(condition)
        return int(loss[rows].sum()), len(rows)


def conditions(risk: Risk, labels: NDArray[np.integer], decisions: Decisions, gate: Mask) -> tuple[Mask, Mask]:
    """The condition mask and the loss mask of a risk, each bool `(N,)`."""
    positive = labels == 1
    exit_zero, exits = decisions.exit_label == 0, decisions.exit_label != DEFERRED
    miss = positive & exit_zero
    everything = np.ones_like(positive)
    match risk:
        case Risk.MISS_ALL:
            return positive, miss
        case Risk.MISS_GATED:
            return positive & gate, miss
        case Risk.MISS_EXIT:
            return positive & exits, miss
        case Risk.FALSE_OMISSION:
            return exit_zero, positive
        case Risk.ERROR_EXIT:
            return exits, exits & (decisions.exit_label != labels)
        case Risk.MISS_JOINT:
            return everything, miss


def measure(
    labels: NDArray[np.integer], decisions: Decisions, gate: Mask, units: Units, *, delta: float
) -> dict[Risk, Rate]:
    """Every risk with its bounds, each at confidence `1 - delta` by itself.

    Args:
        labels: 0 or 1, `(N,)`.
        decisions: decisions for the same rows.
        gate: which rows pass the gate, bool `(N,)`.
        units: the independent units.
        delta: one minus the confidence of each bound.
    """
    rates = {}
    for risk in Risk:
        losses, trials = units.count(*conditions(risk, labels, decisions, gate))
        rates[risk] = Rate.count(losses, trials, delta)
    return rates


@dataclass(frozen=True)
class Onset:
    """Where in a sweep of t0 a row begins to count: strictly above these values, -inf for always, inf for never.

    Attributes:
        condition: the row is among the trials, `(N,)`.
        loss: the row is lost if it is a trial, `(N,)`.
    """

    condition: Floats
    loss: Floats


def onset(risk: Risk | None, labels: NDArray[np.integer], rule: Eligible) -> Onset:
    """Onset of a risk for every row while t0 grows, up to t1.

    Args:
        risk: the risk; None for exit coverage, whose "loss" is an exit.
        labels: 0 or 1, `(N,)`.
        rule: the rule without its t0.
    """
    positive = labels == 1
    never, always = np.float32(np.inf), np.float32(-np.inf)
    exits_as_zero = np.where(rule.zero, rule.score, never)
    exits = np.where(rule.one, always, exits_as_zero)
    missed = np.where(positive, exits_as_zero, never)
    condition, loss = np.full(len(labels), always), missed
    match risk:
        case None:
            loss = exits
        case Risk.MISS_ALL:
            condition = np.where(positive, always, never)
        case Risk.MISS_GATED:
            condition = np.where(positive & rule.gate, always, never)
        case Risk.MISS_EXIT:
            condition = np.where(positive, exits, never)
        case Risk.FALSE_OMISSION:
            condition = exits_as_zero
        case Risk.ERROR_EXIT:
            condition, loss = exits, np.where(~positive & rule.one, always, missed)
        case Risk.MISS_JOINT:
            pass
    return Onset(condition, loss)

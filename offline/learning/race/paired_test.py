"""Which finalist wins: the simplest recipe, unless others let more rows exit beyond doubt.

References:
    Holm (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6(2).
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapters 13 and 15.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offline.learning.checkpoint_score import explained
from offline.learning.race.exit_share import ExitShare, log_loss
from offline.learning.race.outcome import Gain
from stage1.metrics.bootstrap import bootstrap, interval

Doubles = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """What recipes say of the same held-out rows.

    Attributes:
        labels: 0 or 1, `(N,)`.
        groups: of the rows, `(N,)`.
        scores: calibrated log-odds of roadwork by recipe, float64 `(S, N)`, one line a seed.
        failed: why a recipe has no scores, by its name.
    """

    labels: NDArray[np.integer]
    groups: Sequence[str]
    scores: Mapping[str, Doubles]
    failed: Mapping[str, str]


@dataclass(frozen=True)
class Mark:
    """How good a recipe is on held-out rows.

    Attributes:
        exits: mean share of rows that exit at miss rates of 1 to 10 %, averaged over seeds.
        log_loss: mean negative log-likelihood, averaged over seeds.
        value: mean of the exits and of the share of the labels' entropy that the scores explain, as for a checkpoint
            (see `offline.learning.checkpoint_score.SelectiveScore`).
    """

    exits: float
    log_loss: float
    value: float


def marks(table: ScoreTable, false_alarm_rate: float) -> dict[str, Mark]:
    """How good each recipe of a table is.

    Args:
        table: the scores.
        false_alarm_rate: see `ExitShare`.
    """
    weights = np.ones(len(table.labels))

    def mark(name: str) -> Mark:
        exits = float(np.mean([share(weights) for share in _shares(table, name, false_alarm_rate)]))
        loss = float(np.mean([log_loss(line, table.labels) for line in table.scores[name]]))
        return Mark(exits, loss, (exits + explained(loss, table.labels)) / 2)

    return {name: mark(name) for name in table.scores}


def best_first(found: Mapping[str, Mark]) -> list[str]:
    """Recipes by their value; ties in the order they came in.

    Exits are what a cascade is for, and log-loss is the number that tells two models apart with the fewest rows.
    """
    return sorted(found, key=lambda name: -found[name].value)


def holm(p_values: Mapping[str, float], alpha: float) -> dict[str, float]:
    """The level at which each hypothesis is tested: it is rejected if its p-value is at most that.

    The smallest p-value of m is tested at alpha / m, the next at alpha / (m - 1), and so on. After the first that is
    not rejected none is: theirs is the level of that one, or their own where it is smaller than their p-value.

    Args:
        p_values: by name.
        alpha: of all together, in (0, 1).
    """
    levels: dict[str, float] = {}
    stopped = None
    for number, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        own = alpha / (len(p_values) - number)
        if stopped is None and p_values[name] > own:
            stopped = own
        levels[name] = own if stopped is None else stopped
    return levels


def compared(
    table: ScoreTable,
    simplest: str,
    *,
    false_alarm_rate: float,
    level: float,
    repetitions: int,
    rng: np.random.Generator,
) -> dict[str, Gain]:
    """Every other recipe of a table against the simplest one; empty if that has no scores.

    Args:
        table: the scores of the finalists.
        simplest: name of the recipe that is to be beaten.
        false_alarm_rate: see `ExitShare`.
        level: of the two-sided interval that must be above zero, in (0, 1), for all finalists together.
        repetitions: replicates of the group bootstrap.
        rng: source of its draws.
    """
    names = [name for name in table.scores if name != simplest]
    if simplest not in table.scores or not names:
        return {}
    shares = [_shares(table, name, false_alarm_rate) for name in (simplest, *names)]

    def gains(weights: Doubles) -> Doubles:
        found = np.array([np.mean([share(weights) for share in seeds]) for seeds in shares])
        gained: Doubles = found[1:] - found[0]
        return gained

    observed = gains(np.ones(len(table.labels)))
    drawn = bootstrap(gains, table.groups, repetitions, rng)
    drawn = drawn[~np.isnan(drawn).any(axis=1)]
    p_values = {name: float((1 + np.sum(drawn[:, at] <= 0)) / (1 + len(drawn))) for at, name in enumerate(names)}
    alphas = holm(p_values, (1 - level) / 2)
    found = {}
    for at, name in enumerate(names):
        own = 1 - 2 * alphas[name]
        ends = interval(drawn[:, at], own)
        better = p_values[name] <= alphas[name] and ends.lower > 0
        found[name] = Gain(
            exits=float(observed[at]),
            lower=ends.lower,
            upper=ends.upper,
            p_value=p_values[name],
            level=own,
            better=better,
        )
    return found


def winner(found: Mapping[str, Mark], gains: Mapping[str, Gain], simplest: str) -> str:
    """The finalist with the most exits among those that beat the simplest recipe, or the simplest.

    Args:
        found: marks of the finalists.
        gains: what each of them has over the simplest recipe.
        simplest: its name.
    """
    beating = [name for name, one in gains.items() if one.better]
    return max(beating, key=lambda name: found[name].exits, default=simplest)


def _shares(table: ScoreTable, name: str, false_alarm_rate: float) -> list[ExitShare]:
    return [ExitShare(line, table.labels, false_alarm_rate) for line in table.scores[name]]

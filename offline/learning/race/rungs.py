"""Successive halving: many recipes start with short trainings, the better third of each rung goes on to longer ones.

References:
    Jamieson and Talwalkar (2016), Non-stochastic best arm identification and hyperparameter optimization, AISTATS.
    Li et al. (2018), Hyperband, arXiv 1603.06560: promotion of one in eta = 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offline.learning.race.paired_test import Mark, ScoreTable, best_first

ETA = 3
# Share of the epochs of a whole training on each rung, and so many of the folds but on the last, which has all.
SHARES = (0.25, 0.5, 1.0)
FEW_FOLDS = 2


@dataclass(frozen=True)
class Rung:
    """One round of the race.

    Attributes:
        share: of the epochs of a whole training.
        folds: how many of the folds are held out, each in its turn.
        seeds: trainings with each of them.
    """

    share: float
    folds: int
    seeds: int

    @property
    def price(self) -> float:
        """What a recipe costs on this rung, in whole trainings."""
        return self.share * self.folds * self.seeds


@dataclass(frozen=True)
class Standing:
    """How a recipe did on a rung.

    Attributes:
        recipe: its name.
        rung: from 0.
        mark: on the held-out rows of this rung; None if it has none.
        dropped: why it did not go on; empty if it did, or is a finalist.
    """

    recipe: str
    rung: int
    mark: Mark | None
    dropped: str = ""


def rungs(folds: int, seeds: int) -> tuple[Rung, ...]:
    """The rounds of a race: short trainings on few folds, and the last on all folds with every seed.

    Args:
        folds: of the whole race.
        seeds: trainings of a finalist on each fold.
    """
    *early, last = SHARES
    return (*(Rung(share, min(FEW_FOLDS, folds), 1) for share in early), Rung(last, folds, seeds))


def survivors(started: int, finalists: int, *, last: bool) -> int:
    """How many recipes go on, beside the simplest one.

    Args:
        started: recipes on this rung.
        finalists: most of them on the last rung.
        last: whether the next rung is the last.
    """
    kept = max(1, -(-started // ETA))
    return min(kept, finalists) if last else kept


def price_from(number: int, started: int, plan: Sequence[Rung], finalists: int) -> float:
    """What a rung and all after it cost, in whole trainings.

    Args:
        number: of the rung.
        started: recipes on it, the simplest one included.
        plan: the rungs.
        finalists: most recipes on the last rung beside the simplest.
    """
    price = started * plan[number].price
    if number + 1 == len(plan) or started < 2:
        return price
    going_on = 1 + min(started - 1, survivors(started, finalists, last=number + 2 == len(plan)))
    return price + price_from(number + 1, going_on, plan, finalists)


def halved(
    order: Sequence[str],
    plan: Sequence[Rung],
    finalists: int,
    measure: Callable[[int, Sequence[str]], ScoreTable],
    marked: Callable[[ScoreTable], dict[str, Mark]],
) -> tuple[ScoreTable, list[Standing]]:
    """Let recipes race; the simplest one runs on every rung, because the others are measured against it.

    Args:
        order: names in the order in which they start, the simplest first.
        plan: the rungs.
        finalists: most recipes on the last rung beside the simplest.
        measure: trains recipes on a rung and returns what they say of its held-out rows; may leave out the last of them
            for lack of budget.
        marked: how good each recipe of a table is.

    Returns:
        The table of the last rung, and how each recipe did on each of its rungs.
    """
    running, standings = list(order), list[Standing]()
    for number, rung in enumerate(plan):
        table = measure(number, running)
        found = marked(table)
        ranked = [name for name in best_first(found) if name != order[0]]
        last = number + 1 == len(plan)
        kept = len(ranked) if last else survivors(len(found), finalists, last=number + 2 == len(plan))
        for name in running:
            standings.append(Standing(name, number, found.get(name), _why(name, table, ranked[:kept], order[0], rung)))
        if last:
            break
        running = [order[0], *ranked[:kept]]
    return table, standings


def _why(name: str, table: ScoreTable, kept: Sequence[str], simplest: str, rung: Rung) -> str:
    if name in table.failed:
        return table.failed[name]
    if name not in table.scores:
        return "not started: the budget was spent"
    if name in kept or name == simplest:
        return ""
    return f"not among the best {len(kept)} after {rung.share:.0%} of the epochs"

"""Successive halving: what goes on, what it costs, and why a recipe is dropped."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from offline.learning.race.paired_test import Mark, ScoreTable
from offline.learning.race.rungs import halved, price_from, rungs, survivors

NAMES = [f"recipe {number:02d}" for number in range(27)]


class Field:
    """Recipes whose exits are known; remembers who ran on which rung."""

    def __init__(self, worth: dict[str, float], *, most: int = 99, failing: str = "") -> None:
        self.worth, self.most, self.failing = worth, most, failing
        self.ran: list[list[str]] = []

    def measure(self, _rung: int, names: Sequence[str]) -> ScoreTable:
        ran = list(names)[: self.most]
        self.ran.append(ran)
        scores = {name: np.zeros((1, 2)) for name in ran if name != self.failing}
        return ScoreTable(np.array([0, 1]), ["a", "b"], scores, {self.failing: "diverged"} if self.failing else {})

    def marks(self, table: ScoreTable) -> dict[str, Mark]:
        return {name: Mark(self.worth[name], 1 - self.worth[name], self.worth[name]) for name in table.scores}

    def race(self):
        return halved(NAMES, rungs(5, 1), 3, self.measure, self.marks)


def test_the_best_third_of_each_rung_goes_on_and_the_simplest_always() -> None:
    field = Field({name: number / 100 for number, name in enumerate(NAMES)})
    table, standings = field.race()
    assert [len(ran) for ran in field.ran] == [27, 10, 4]
    assert set(table.scores) == {NAMES[0], *NAMES[-3:]}
    dropped = {one.recipe: one.dropped for one in standings if one.dropped}
    assert dropped[NAMES[1]] == "not among the best 9 after 25% of the epochs"
    assert dropped[NAMES[-4]] == "not among the best 3 after 50% of the epochs"
    assert len(dropped) == 23


def test_a_recipe_that_fails_is_dropped_with_its_reason() -> None:
    field = Field(dict.fromkeys(NAMES, 0.5), failing=NAMES[5])
    standings = field.race()[1]
    assert [one.dropped for one in standings if one.recipe == NAMES[5]] == ["diverged"]


def test_what_the_budget_does_not_pay_is_not_started() -> None:
    standings = Field(dict.fromkeys(NAMES, 0.5), most=4).race()[1]
    first = {one.recipe: one.dropped for one in standings if one.rung == 0}
    assert sum(why == "not started: the budget was spent" for why in first.values()) == 23


def test_the_price_of_a_race_is_that_of_its_rungs() -> None:
    plan = rungs(5, 1)
    assert [rung.price for rung in plan] == [0.5, 1.0, 5.0]
    assert price_from(0, 27, plan, 3) == pytest.approx(27 * 0.5 + 10 * 1.0 + 4 * 5.0)
    assert price_from(1, 10, plan, 3) == pytest.approx(10 * 1.0 + 4 * 5.0)
    assert price_from(0, 1, plan, 3) == pytest.approx(0.5)


@pytest.mark.parametrize(("started", "last", "kept"), [(27, False, 9), (10, True, 3), (2, True, 1), (4, False, 2)])
def test_one_in_three_goes_on(started: int, last: bool, kept: int) -> None:
    assert survivors(started, 3, last=last) == kept

"""The race itself: units are done as long as the budget pays for them, and their answers decide what goes on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from offline.errors import TrainingError
from offline.learning.race.outcome import Entrant, Gain, RungResult
from offline.learning.race.paired_test import ScoreTable, compared, marks, winner
from offline.learning.race.recipes import Recipe
from offline.learning.race.rungs import Rung, Standing, halved, price_from, rungs
from offline.learning.race.units import Executor, Ledger, RaceProgress, Unit, UnitOutcome, Work
from offline.learning.settings import LearnSettings


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The rows that are held out in their turn.

    Attributes:
        labels: 0 or 1, `(N,)`.
        groups: `(N,)`.
        folds: fold of each row, `(N,)`.
    """

    labels: NDArray[np.integer]
    groups: Sequence[str]
    folds: NDArray[np.intp]


@dataclass(frozen=True, eq=False)
class Result:
    """What came of a race.

    Attributes:
        winner: the recipe.
        entrants: how each recipe did.
        log_odds: held-out answers of the winner, calibrated, the mean over seeds, float64 `(N,)`.
    """

    winner: Recipe
    entrants: tuple[Entrant, ...]
    log_odds: NDArray[np.float64]


@dataclass
class Competition:
    """A race of recipes.

    Its outcome depends on the seed, the rows and, where the budget is in minutes, on the seconds that the ledger has of
    finished units, and on nothing else: a race that goes on after it was killed decides as it did before.

    Attributes:
        order: the recipes, in the order in which they start, the simplest first.
        rows: the rows that are held out.
        settings: budget, rungs and level.
        false_alarm_rate: of the exits, see `ExitShare`.
        seed: of trainings and draws.
        ledger: of finished units.
        executor: does units.
        work: trains one.
        progress: is told of every unit.
    """

    order: Sequence[Recipe]
    rows: HeldOut
    settings: LearnSettings
    false_alarm_rate: float
    seed: int
    ledger: Ledger
    executor: Executor
    work: Work
    progress: RaceProgress
    _done: dict[str, UnitOutcome] = field(default_factory=dict)

    def run(self) -> Result:
        """Let them race.

        Raises:
            TrainingError: the simplest recipe could not be trained, so that nothing could be measured against it.
        """
        plan, by_name = self._plan, {recipe.name: recipe for recipe in self.order}
        simplest = self.order[0].name
        table, standings = halved(
            list(by_name),
            plan,
            self.settings.finalists,
            lambda number, names: self._measured(number, [by_name[name] for name in names]),
            lambda table: marks(table, self.false_alarm_rate),
        )
        gains = compared(
            table,
            simplest,
            false_alarm_rate=self.false_alarm_rate,
            level=self.settings.level,
            repetitions=self.settings.repetitions,
            rng=np.random.default_rng(self.seed),
        )
        name = winner(marks(table, self.false_alarm_rate), gains, simplest)
        entrants = tuple(self._entrant(recipe, standings, gains.get(recipe.name)) for recipe in self.order)
        log_odds = np.empty(len(self.rows.labels))
        log_odds[self._held(plan[-1])] = table.scores[name].mean(axis=0)
        return Result(by_name[name], entrants, log_odds)

    @property
    def _plan(self) -> tuple[Rung, ...]:
        plan = rungs(self.settings.folds, self.settings.seeds)
        # Without a rival there is nothing to select for.
        return plan if len(self.order) > 1 else plan[-1:]

    def _measured(self, number: int, recipes: Sequence[Recipe]) -> ScoreTable:
        """Train recipes on a rung, as many as the budget pays for, the simplest whatever it costs."""
        rung, width = self._plan[number], self.executor.width
        started: list[Recipe] = []
        goal = _trainings(self._done.values()) + price_from(number, len(recipes), self._plan, self.settings.finalists)
        while len(started) < len(recipes):
            # The simplest alone, because only then it is known what a training takes.
            wave = recipes[len(started) : len(started) + (width if started else 1)]
            if started and not self._affordable(number, started, wave):
                break
            self._do([unit for recipe in wave for unit in self._units(recipe, rung)], number, goal)
            started += wave
        return self._table(rung, started)

    def _affordable(self, number: int, started: Sequence[Recipe], wave: Sequence[Recipe]) -> bool:
        """Whether a wave, and all that has to follow it, fits into what is left."""
        plan, together = self._plan, len(started) + len(wave)
        # What this rung has cost already is in what was spent.
        left = price_from(number, together, plan, self.settings.finalists) - len(started) * plan[number].price
        if self.settings.budget_trainings is not None:
            return _trainings(self._done.values()) + left <= self.settings.budget_trainings + 1e-9
        spent = sum(outcome.seconds for outcome in self._done.values())
        return spent + left * self._training_s() <= self.settings.budget_minutes * 60 * self.executor.width

    def _training_s(self) -> float:
        """Seconds of a whole training of one fold, by what finished units took."""
        return fmean(outcome.seconds / outcome.share for outcome in self._done.values())

    def _units(self, recipe: Recipe, rung: Rung) -> list[Unit]:
        return [
            Unit(recipe.name, recipe.overrides, rung.share, fold, self.seed + number)
            for fold in range(rung.folds)
            for number in range(rung.seeds)
        ]

    def _do(self, units: Sequence[Unit], number: int, goal: float) -> None:
        waiting = []
        for unit in units:
            kept = self.ledger.read(unit)
            if kept is None:
                waiting.append(unit)
            else:
                self._done[unit.key] = kept
        self._say(units[0], number, goal)
        # Kept where it ends, and not when all are done.
        for unit, outcome in self.executor.run(waiting, partial(_kept, self.ledger, self.work)):
            self._done[unit.key] = outcome
            self._say(unit, number, goal)

    def _say(self, unit: Unit, number: int, goal: float) -> None:
        done, note = _trainings(self._done.values()), f"rung {number + 1} of {len(self._plan)}, {unit.recipe}"
        if self._done:
            minutes = max(0.0, goal - done) * self._training_s() / 60 / self.executor.width
            note = f"{note}, about {minutes:.0f} min to go"
        self.progress.at(done, max(goal, done), note)

    def _table(self, rung: Rung, recipes: Sequence[Recipe]) -> ScoreTable:
        held = self._held(rung)
        scores: dict[str, NDArray[np.float64]] = {}
        failed: dict[str, str] = {}
        for recipe in recipes:
            units = self._units(recipe, rung)
            reasons = [self._done[unit.key].failed for unit in units if self._done[unit.key].failed]
            if reasons:
                failed[recipe.name] = reasons[0]
                continue
            lines = [
                np.concatenate([self._done[unit.key].log_odds for unit in units if unit.seed == self.seed + number])
                for number in range(rung.seeds)
            ]
            scores[recipe.name] = np.stack(lines)
        simplest = self.order[0].name
        if simplest in failed:
            raise TrainingError(
                f"the simplest recipe, {simplest}, could not be trained, and the others are measured against it: "
                f"{failed[simplest]}"
            )
        return ScoreTable(self.rows.labels[held], [self.rows.groups[row] for row in held], scores, failed)

    def _held(self, rung: Rung) -> NDArray[np.intp]:
        """The rows that a rung holds out, fold by fold."""
        return np.concatenate([np.flatnonzero(self.rows.folds == fold) for fold in range(rung.folds)])

    def _entrant(self, recipe: Recipe, standings: Sequence[Standing], gain: Gain | None) -> Entrant:
        own = [one for one in standings if one.recipe == recipe.name]
        asked = {unit.key for rung in self._plan for unit in self._units(recipe, rung)}
        outcomes = [outcome for key, outcome in self._done.items() if key in asked]
        return Entrant(
            name=recipe.name,
            overrides=dict(recipe.overrides),
            rungs=tuple(
                RungResult(rung=one.rung + 1, exits=one.mark.exits, log_loss=one.mark.log_loss)
                if one.mark is not None
                else RungResult(rung=one.rung + 1)
                for one in own
            ),
            dropped=next((one.dropped for one in own if one.dropped), ""),
            trainings=_trainings(outcomes),
            seconds=sum(outcome.seconds for outcome in outcomes),
            gain=gain,
        )


def _kept(ledger: Ledger, work: Work, unit: Unit) -> UnitOutcome:
    outcome = work(unit)
    ledger.write(unit, outcome)
    return outcome


def _trainings(outcomes: Iterable[UnitOutcome]) -> float:
    return sum(outcome.share for outcome in outcomes)

"""The table of what there is, with what is missing, and the smallest difference that each comparison can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.learning.table.comparison import (
    LOWER_IS_BETTER,
    METRICS,
    Compared,
    alone,
    answers_of,
    difference,
)
from benchmarks.learning.table.exits import LEVELS, Answered
from benchmarks.learning.table.statistics import Estimate, aligned, cell
from benchmarks.learning.units.results import UnitResult
from benchmarks.learning.units.rows import BASELINE, REFERENCE, ROWS, Row
from benchmarks.learning.units.unit import Unit

SHOWN_MISSES = 0.05
NOTES = """\
Rates are not tuned: one for adapters and heads, a fifth of it for Lion.
Exits: a rule is chosen as the product chooses one, by row, on calibrated log-odds of rows that did not train.
AUC in a group: of pairs in one city, which a shift of the scores between cities does not move.
Certified: by group, at 90% confidence; a seed for which nothing is certified counts as coverage 0.
Intervals draw groups and seeds again; of few groups they are too short. No allowance is made for many comparisons.
CPU s is of training, without what was kept of frozen blocks; MiB is the most that its process held.
""".splitlines()


@dataclass(frozen=True)
class TaskResults:
    """Everything that is known of a task.

    Attributes:
        title: of the task.
        units: all that are wanted.
        results: those that there are, by name of the unit.
        refusals: why settings of a row are none of this program, by its name.
    """

    title: str
    units: Sequence[Unit]
    results: Mapping[str, UnitResult]
    refusals: Mapping[str, str]

    def of(self, row: str) -> dict[tuple[int, int], UnitResult]:
        """The trainings of a row by fold and seed."""
        found = ((unit, self.results.get(unit.name)) for unit in self.units if unit.row.name == row)
        return {(unit.fold, unit.seed): result for unit, result in found if result is not None and not result.refused}

    def refusal(self, row: str) -> str:
        """Why a row was not trained; empty if it was, or may be."""
        told = (self.results[unit.name].refused for unit in self.units if self._is_done(unit, row))
        return self.refusals.get(row, "") or next(filter(None, told), "")

    def _is_done(self, unit: Unit, row: str) -> bool:
        return unit.row.name == row and unit.name in self.results

    def wanted(self, row: str) -> int:
        """Units of a row."""
        return sum(unit.row.name == row for unit in self.units)

    @property
    def rows(self) -> list[Row]:
        """Rows of the task, in the order of the table."""
        names = {unit.row.name for unit in self.units}
        return [row for row in ROWS if row.name in names]


def report(task: TaskResults) -> str:
    """The tables of a task as text that is also markdown."""
    parts = [f"## {task.title}", _table(task)]
    for other in (BASELINE, REFERENCE):
        parts += [f"Less `{other}`, on the folds and seeds that both have:", _differences(task, other)]
    return "\n\n".join([*parts, _missing(task), _notes(task)])


def best_row(task: TaskResults) -> str:
    """The row, neither baseline nor LoRA, with the highest mean exits; empty while one has not all of its seeds."""
    exits = {}
    for row in task.rows:
        done = task.of(row.name)
        if row.name in {BASELINE, REFERENCE} or task.refusal(row.name):
            continue
        if len(done) < task.wanted(row.name):
            return ""
        metrics = alone(done, 1).metrics
        exits[row.name] = float(np.mean([metrics[name].value for name in METRICS if name.startswith("exits")]))
    return max(exits, key=lambda name: exits[name], default="")


def _table(task: TaskResults) -> str:
    lines = [["row", "units", *METRICS, f"misses at {SHOWN_MISSES:.0%}", "certified", "CPU s", "MiB"]]
    for row in task.rows:
        refusal, done = task.refusal(row.name), task.of(row.name)
        count = f"{len(done)} of {task.wanted(row.name)}"
        if not done:
            word = "refused" if refusal else "not yet"
            lines.append([row.label, word if refusal else count, *[""] * (len(lines[0]) - 2)])
            continue
        found, answers = alone(done), answers_of(done)
        cost = f"{np.mean([result.cpu_s for result in done.values()]):.0f}"
        memory = f"{max(result.memory_mib for result in done.values()):.0f}"
        numbers = [_number(found.metrics[name]) for name in METRICS]
        lines.append([row.label, count, *numbers, _misses(answers), _certified(answers), cost, memory])
    return aligned(lines)


def _number(found: Estimate) -> str:
    return "-" if np.isnan(found.value) else cell(found)


def _misses(answers: Mapping[int, Answered]) -> str:
    """Roadwork that exits as none, of all roadwork that exits, over seeds."""
    exits = [(each.data.positive, each.exits[SHOWN_MISSES]) for each in answers.values() if each.exits]
    trials = sum(int((positive & (labels >= 0)).sum()) for positive, labels in exits)
    events = sum(int((positive & (labels == 0)).sum()) for positive, labels in exits)
    return f"{events / trials:.1%} ({events}/{trials})" if trials else "nothing exits"


def _certified(answers: Mapping[int, Answered]) -> str:
    """The strictest level at which any seed is certified, with the mean exits there; a seed without counts as 0."""
    for level in LEVELS:
        each = [found.certified.get(level) for found in answers.values()]
        shares = [share for share in each if share is not None]
        if shares:
            return f"{level:.0%}: {sum(shares) / len(each):.2f} ({len(shares)} of {len(each)} seeds)"
    return "INFEASIBLE"


def _differences(task: TaskResults, other: str) -> str:
    theirs = task.of(other)
    lines = [["row", "units", *METRICS]]
    seen: list[Compared] = []
    for row in task.rows:
        if row.name == other or not (found := difference(task.of(row.name), theirs)):
            continue
        seen.append(found)
        lines.append([row.label, str(found.units), *[_verdict(found.metrics[name], name) for name in METRICS]])
    if not seen:
        return "nothing to compare yet"
    smallest = [np.median([found.metrics[name].visible for found in seen]) for name in METRICS]
    lines.append(
        [
            "smallest difference seen in 80%, median",
            "",
            *["-" if np.isnan(value) else f"{value:.3f}" for value in smallest],
        ]
    )
    return aligned(lines)


def _verdict(found: Estimate, metric: str) -> str:
    if np.isnan(found.value):
        return "-"
    better = found.sign if metric not in LOWER_IS_BETTER else -found.sign
    word = {1: "better", -1: "worse", 0: "not told apart"}[better]
    return f"{cell(found, signed=True)} {word}, sees {found.visible:.3f}"


def _missing(task: TaskResults) -> str:
    lines = []
    for row in task.rows:
        refusal = task.refusal(row.name)
        left = task.wanted(row.name) - len(task.of(row.name))
        if refusal:
            lines.append(f"- {row.label}: refused: {refusal}")
        elif left:
            lines.append(f"- {row.label}: {left} of {task.wanted(row.name)} units are missing")
    return "\n".join(["Missing:", *lines]) if lines else "Nothing is missing."


def _notes(task: TaskResults) -> str:
    done = [result for row in task.rows for result in task.of(row.name).values()]
    reasons = [found.reason for row in task.rows for found in answers_of(task.of(row.name)).values() if found.reason]
    notes = [*NOTES, *sorted({result.note for result in done if result.note})]
    if reasons:
        notes.append(f"INFEASIBLE is what the calibration said, for example: {reasons[0]}")
    return "\n".join(f"- {note}" for note in notes)

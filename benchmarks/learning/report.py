"""Both tables in words and numbers, as text that is also markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.learning.arena import Arena, Workplace
from benchmarks.learning.exits import Answered, Exits, answered
from benchmarks.learning.methods import Method
from benchmarks.learning.notes import notes
from benchmarks.learning.plan import Plan, Results
from benchmarks.learning.preparations import arena_of
from benchmarks.learning.resampling import Estimate, Resampled, resample
from benchmarks.learning.scale import LOOSE, STRICT

COLUMNS = ("training", "rate", "AUGRC (lower)", "MCC (higher)", "exit coverage, certified", "misses on these exits")
UNCERTIFIED = ("exits, uncertified 5% rule", "misses on these")
COSTS = ("training s", "CPU s", "memory MiB")
LOWER_IS_BETTER = {"augrc"}
NAMES = {"augrc": "AUGRC", "mcc": "MCC", "strict": "coverage at 2%", "loose": "coverage at 5%"}


def report(place: Workplace, plan: Plan, results: Results) -> str:
    """The table of a plan, the differences between its rows, and how to read them."""
    arena = arena_of(place, plan.table.name)
    answers = {m.name: _answers(place, plan, arena, m, results) for m in plan.table.methods}
    made = _Report(plan, results, arena, answers, resample(answers, place.scale.repetitions))
    reason = next((e.reason for found in answers.values() for a in found for e in a.exits.values() if e.reason), "")
    parts = [
        f"## Table {plan.table.name}: {plan.table.title}",
        made.rows(),
        "Differences, paired by rows, groups and seeds:",
        made.differences(),
        notes(place, plan, arena, results, reason),
    ]
    return "\n\n".join(parts)


def _answers(place: Workplace, plan: Plan, arena: Arena, method: Method, results: Results) -> list[Answered]:
    found = []
    for seed in range(plan.seeds):
        path = place.path(plan.table.name, "answers", f"{plan.run_key(method, seed, results)}.npz")
        with np.load(path) as kept:
            found.append(answered(arena, method, dict(kept)))
    return found


@dataclass(frozen=True)
class _Report:
    plan: Plan
    results: Results
    arena: Arena
    answers: dict[str, list[Answered]]
    numbers: Resampled

    def rows(self) -> str:
        head = [*COLUMNS, *(UNCERTIFIED if self._in_turns else ()), *COSTS]
        return _aligned([head, *(self._row(method) for method in self.plan.table.methods)])

    @property
    def _in_turns(self) -> bool:
        return not len(self.arena.calib)

    def _row(self, method: Method) -> list[str]:
        augrc, mcc = (self.numbers.estimate(method.name, metric) for metric in ("augrc", "mcc"))
        answers = self.answers[method.name]
        coverage, level = self._coverage(method)
        cells = [method.label, self._rate(method), _cell(augrc), _cell(mcc), coverage]
        cells.append(_misses(answers, [a.exits[level] for a in answers]))
        if self._in_turns:
            cells.append(_cell(self.numbers.estimate(method.name, "uncertified"), 2))
            cells.append(_misses(answers, [a.uncertified for a in answers]))
        chains = [self.plan.chain(method, seed, self.results) for seed in range(self.plan.seeds)]
        cells.append(f"{np.mean([sum(part.wall_s for part in chain) for chain in chains]):.1f}")
        cells.append(f"{np.mean([sum(part.cpu_s for part in chain) for chain in chains]):.1f}")
        cells.append(f"{max(part.memory_mib for chain in chains for part in chain):.0f}")
        return cells

    def _rate(self, method: Method) -> str:
        rate, rates = self.plan.chosen(method, self.results), self.plan.rates(method)
        return f"{rate:g}{'*' if self.plan.tuned and rate in {rates[0], rates[-1]} else ''}"

    def _coverage(self, method: Method) -> tuple[str, float]:
        """The cell, and the level that it speaks of."""
        if method.softmax:
            return f"{_cell(self.numbers.estimate(method.name, 'strict'), 2)} not certified", STRICT
        shown = []
        for alpha, metric in ((STRICT, "strict"), (LOOSE, "loose")):
            feasible, tried = self._feasible(method, alpha)
            if feasible:
                share = "" if feasible == tried else f" ({feasible} of {tried} certified)"
                shown.append(f"{alpha:.0%}: {_cell(self.numbers.estimate(method.name, metric), 2)}{share}")
                return "; ".join(shown), alpha
            shown.append(f"{alpha:.0%}: INFEASIBLE")
        return "; ".join(shown), LOOSE

    def _feasible(self, method: Method, alpha: float) -> tuple[int, int]:
        every = [answer.exits[alpha] for answer in self.answers[method.name]]
        return sum(e.feasible for e in every), sum(e.tried for e in every)

    def differences(self) -> str:
        head = ["", "AUGRC", "MCC", "exit coverage, certified"]
        return _aligned([head, *(self._difference(*pair) for pair in self.plan.table.pairs)])

    def _difference(self, ours: str, theirs: str) -> list[str]:
        first, second = (self.plan.table.method(name) for name in (ours, theirs))
        cells = [f"{first.label} - {second.label.split(':')[0]}"]
        cells += [self._verdict(ours, theirs, metric) for metric in ("augrc", "mcc")]
        levels = [
            metric
            for alpha, metric in ((STRICT, "strict"), (LOOSE, "loose"))
            if self._feasible(first, alpha)[0] or self._feasible(second, alpha)[0]
        ]
        if first.softmax or second.softmax or not levels:
            return [*cells, "-"]
        return [*cells, f"{NAMES[levels[0]].split()[-1]}: {self._verdict(ours, theirs, levels[0], 2)}"]

    def _verdict(self, ours: str, theirs: str, metric: str, digits: int = 3) -> str:
        found = self.numbers.difference(ours, theirs, metric)
        verdict = "no difference seen"
        if found.lower > 0 or found.upper < 0:
            verdict = "better" if (found.value > 0) != (metric in LOWER_IS_BETTER) else "worse"
        return f"{_cell(found, digits, signed=True)} {verdict}"


def _cell(found: Estimate, digits: int = 3, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    value, lower, upper = (f"{number:{sign}.{digits}f}" for number in (found.value, found.lower, found.upper))
    return f"{value} [{lower}, {upper}]"


def _misses(answers: Sequence[Answered], exits: Sequence[Exits]) -> str:
    """Roadwork that exits as none, of all roadwork that exits, over the seeds."""
    trials = sum(int((a.test.positive & (e.labels >= 0)).sum()) for a, e in zip(answers, exits, strict=True))
    events = sum(int((a.test.positive & (e.labels == 0)).sum()) for a, e in zip(answers, exits, strict=True))
    return f"{events / trials:.1%} ({events}/{trials})" if trials else "nothing exits"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)

"""Which tasks there are, which may start, and which learning rate was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.learning.methods import Method, Table
from benchmarks.learning.preparations import key_of, preparations
from benchmarks.learning.scale import TUNING_SEED, Scale
from benchmarks.learning.task import Purpose, Result, Task

Results = Mapping[str, Result]


@dataclass(frozen=True)
class Plan:
    """The tasks of a table.

    Attributes:
        table: of the plan.
        scale: sizes.
        seeds: number of seeds of each row.
    """

    table: Table
    scale: Scale
    seeds: int

    @property
    def tuned(self) -> bool:
        """Whether there is more than one rate to try."""
        return len(self.scale.head_rates) > 1

    def rates(self, method: Method) -> tuple[float, ...]:
        """The learning rates that a method tries."""
        if method.adapter == "none":
            return self.scale.head_rates
        return self.scale.photograph_rates if self.table.name == "a" else self.scale.street_rates

    def count(self) -> int:
        """Number of tasks in all."""
        tries = sum(len(self.rates(method)) for method in self.table.methods) if self.tuned else 0
        return len(self._preparations()) + tries + len(self.table.methods) * self.seeds

    def ready(self, results: Results) -> list[Task]:
        """Tasks that are not done and whose needs are."""
        known = self._preparations()
        for method in self.table.methods:
            known += self._trainings(method, results)
        return [task for task in known if task.key not in results and all(need in results for need in task.needs)]

    def chosen(self, method: Method, results: Results) -> float | None:
        """The rate that was best on val_select with the tuning seed, None if that is not known yet.

        By the selective score that also chooses checkpoints; by log-loss where there is no selection head.
        """
        if not self.tuned:
            return self.rates(method)[0]
        tried = [results.get(self._key(method, "tune", TUNING_SEED, rate)) for rate in self.rates(method)]
        found = [result for result in tried if result is not None]
        if len(found) < len(tried):
            return None
        if method.softmax:
            return max(found, key=lambda r: r.negative_loss).rate
        return max(found, key=lambda r: (r.coverage, r.relaxed, r.negative_loss)).rate

    def run_key(self, method: Method, seed: int, results: Results) -> str:
        """Key of the training of a row with a seed; its rate must be chosen."""
        rate = self.chosen(method, results)
        assert rate is not None
        return self._key(method, "run", seed, rate)

    def chain(self, method: Method, seed: int, results: Results) -> list[Result]:
        """Everything that went into a trained row of a seed: adaptation, the row it started from, itself."""
        found = [] if not method.after else self.chain(self.table.method(method.after), seed, results)
        if method.adapted and not method.after:
            found.append(results[key_of(self.table.name, f"adapted.{seed}")])
        return [*found, results[self.run_key(method, seed, results)]]

    def _preparations(self) -> list[Task]:
        seeds = tuple(range(self.seeds))
        return preparations(self.table, (TUNING_SEED, *seeds) if self.tuned else seeds)

    def _trainings(self, method: Method, results: Results) -> list[Task]:
        start = self.table.method(method.after) if method.after else None
        base = None if start is None else self.chosen(start, results)
        if start is not None and base is None:
            return []
        wanted: list[tuple[Purpose, int, float]] = []
        if self.tuned:
            wanted += [("tune", TUNING_SEED, rate) for rate in self.rates(method)]
        rate = self.chosen(method, results)
        if rate is not None:
            wanted += [("run", seed, rate) for seed in range(self.seeds)]
        made = []
        for purpose, seed, rate in wanted:
            first = "" if start is None or base is None else self._key(start, purpose, seed, base)
            needs = (first,) if first else self._grounds(method, seed)
            key = self._key(method, purpose, seed, rate)
            made.append(Task(key, self.table.name, purpose, method.name, seed, rate, first, needs))
        return made

    def _grounds(self, method: Method, seed: int) -> tuple[str, ...]:
        """Preparations that a training needs."""
        if method.kind == "heads":
            what = f"features.{method.features}"
        elif method.adapted:
            what = f"adapted.{seed}"
        else:
            what = f"{'head' if method.adapter == 'none' else 'states'}.{seed}"
        return (key_of(self.table.name, what),)

    def _key(self, method: Method, purpose: Purpose, seed: int, rate: float) -> str:
        return f"{self.table.name}.{purpose}.{method.name}.{seed}.{rate:g}"

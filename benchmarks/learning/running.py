"""Runs tasks, each in a process of its own, two at a time, and keeps what they find, so that a stopped run goes on."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess

from benchmarks.learning.arena import Workplace
from benchmarks.learning.child import work
from benchmarks.learning.plan import Plan
from benchmarks.learning.scale import TUNING_SEED
from benchmarks.learning.task import Result, Task

AT_ONCE = 2
POLL_S = 0.1
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
RESULTS = "results.jsonl"


def read_results(place: Workplace) -> dict[str, Result]:
    """What was found so far; a line that was cut off is found again."""
    path = place.path(RESULTS)
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    found = [Result(**json.loads(line)) for line in lines]
    return {result.key: result for result in found}


def _server() -> ForkServerContext:
    """Starts processes that are new but for the libraries, which take seconds to import."""
    os.environ |= ONE_THREAD
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.learning.child"])
    return context


@dataclass
class Queue:
    """The tasks of some plans.

    Attributes:
        place: of the run.
        plans: whose tasks to run.
        context: starts processes.
    """

    place: Workplace
    plans: Sequence[Plan]
    context: ForkServerContext = field(default_factory=_server)

    def run(self) -> dict[str, Result]:
        """Run what is left.

        Raises:
            SystemExit: a task failed.
        """
        results, running = read_results(self.place), dict[str, tuple[ForkServerProcess, Connection]]()
        total, begun, before = sum(plan.count() for plan in self.plans), time.monotonic(), len(results)
        while True:
            for key in [key for key, (child, _) in running.items() if not child.is_alive()]:
                results[key] = self._finish(key, *running.pop(key))
                done, elapsed = self._done(results), time.monotonic() - begun
                left = elapsed / max(1, len(results) - before) * (total - done)
                print(f"{done}/{total}  {elapsed / 60:.1f} min, about {left / 60:.1f} left  {key}", file=sys.stderr)
            while len(running) < AT_ONCE and (task := self._next(results, running)) is not None:
                running[task.key] = self._start(task)
            if not running:
                return results
            time.sleep(POLL_S)

    def _next(self, results: dict[str, Result], running: Iterable[str]) -> Task | None:
        """Of the table that has less running, the earliest seed: what is stopped has the first seeds of all rows."""
        ready = [task for plan in self.plans for task in plan.ready(results) if task.key not in running]
        tables = [key.split(".")[0] for key in running]

        def rank(task: Task) -> tuple[int, int]:
            return tables.count(task.table), -1 if task.seed == TUNING_SEED else task.seed

        return min(ready, key=rank, default=None)

    def _done(self, results: dict[str, Result]) -> int:
        return sum(key.split(".")[0] in {plan.table.name for plan in self.plans} for key in results)

    def _start(self, task: Task) -> tuple[ForkServerProcess, Connection]:
        ours, theirs = self.context.Pipe(duplex=False)
        # Ends with this process; a preparation draws in processes of its own, which a daemon may not have.
        daemon = task.purpose != "prepare"
        child = self.context.Process(target=work, args=(self.place.home, task, theirs), daemon=daemon)
        child.start()
        theirs.close()
        return child, ours

    def _finish(self, key: str, child: ForkServerProcess, answer: Connection) -> Result:
        if child.exitcode or not answer.poll():
            log = self.place.path("logs", f"{key}.log")
            raise SystemExit(f"{key} failed with status {child.exitcode}, see {log}")
        result: Result = answer.recv()
        with self.place.path(RESULTS).open("a") as handle:
            handle.write(json.dumps(result.as_json()) + "\n")
        return result

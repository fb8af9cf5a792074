"""Runs units, each in a process of its own, within a budget of hours; what is done is not done again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.learning.units.place import QUICK, Place
from benchmarks.learning.units.results import result_path
from benchmarks.learning.units.unit import Unit

POLL_S = 0.2
NICENESS = 15
MOST_FAILURES = 3
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ROOT = Path(__file__).resolve().parents[3]


@dataclass
class UnitQueue:
    """The units that are left.

    Attributes:
        place: of the run.
        hours: no unit is started after so many.
        jobs: units at a time; of one task never more than one, because a cache has one writer.
    """

    place: Place
    hours: float
    jobs: int = 1
    _failed: list[str] = field(default_factory=list)

    def run(self, units: Sequence[Unit]) -> list[str]:
        """Run units in their order, as far as the hours go.

        Args:
            units: all of them; those whose settings are refused, and those that are done, are passed over.

        Returns:
            Names of the units whose process failed.

        Raises:
            SystemExit: several failed one after another.
        """
        keys = self.place.keys(list(units))
        waiting = [unit for unit in units if unit.name in keys and not self._done(unit, keys[unit.name])]
        running: dict[str, tuple[Unit, subprocess.Popen[bytes]]] = {}
        end, total, begun = time.monotonic() + self.hours * 3600, len(waiting), time.monotonic()
        try:
            while running or (waiting and time.monotonic() < end):
                for task in [task for task, (_, child) in running.items() if child.poll() is not None]:
                    unit, child = running.pop(task)
                    self._finish(unit, child.returncode, keys[unit.name])
                    minutes = (time.monotonic() - begun) / 60
                    left = len(waiting) + len(running)
                    print(f"{total - left}/{total}  {minutes:.1f} min  {unit.name}", file=sys.stderr, flush=True)
                if time.monotonic() < end:
                    self._start_some(waiting, running)
                time.sleep(POLL_S)
        finally:
            for _, child in running.values():
                child.terminate()
            for _, child in running.values():
                child.wait()
        return self._failed

    def _done(self, unit: Unit, key: str) -> bool:
        return result_path(self.place.home, unit.name, key).exists()

    def _start_some(self, waiting: list[Unit], running: dict[str, tuple[Unit, subprocess.Popen[bytes]]]) -> None:
        for unit in list(waiting):
            if len(running) >= self.jobs:
                return
            if unit.task not in running:
                waiting.remove(unit)
                running[unit.task] = unit, self._start(unit)

    def _start(self, unit: Unit) -> subprocess.Popen[bytes]:
        place = self.place
        command = [sys.executable, "-m", "benchmarks.learning.units.child", "--home", str(place.home)]
        if place.photographs is not None:
            command += ["--photographs", str(place.photographs)]
        if place.backbone is not None:
            command += ["--backbone", str(place.backbone)]
        if place.sizes == QUICK:
            command += ["--quick"]
        command += [unit.task, unit.row.name, str(unit.fold), str(unit.seed)]
        with self._log(unit).open("wb") as log:
            return subprocess.Popen(
                ["nice", "-n", str(NICENESS), *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={**os.environ, **ONE_THREAD},
            )

    def _log(self, unit: Unit) -> Path:
        path = self.place.home / "logs" / f"{unit.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _finish(self, unit: Unit, status: int, key: str) -> None:
        if status == 0 and self._done(unit, key):
            self._failed.clear()
            return
        self._failed.append(unit.name)
        told = f"failed with status {status}, see {self._log(unit)}"
        if status == 0:
            told = "was trained by other code than this run began with: start the benchmark again"
        print(f"{unit.name} {told}", file=sys.stderr, flush=True)
        if len(self._failed) >= MOST_FAILURES:
            raise SystemExit(f"{MOST_FAILURES} units failed one after another; nothing more is started")

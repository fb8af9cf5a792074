"""The nights of a year, one after the other, each by the product's own `run_night`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.year.training import Tonight, outputs_of, table, weights_of
from benchmarks.year.world import World, true_labels_and_colours
from engines.store.store import Store
from offline.config import RunConfig, load_config
from offline.night import NightOutcome, run_night
from offline.pipeline.progress import Silence
from offline.runs.disk_space import allocated, free_bytes
from stage1.certificate.params import ScrcParams
from stage1.errors import CascadeError

BEGIN = datetime(2026, 1, 1, 3, 30, tzinfo=UTC)
SETTINGS = {
    "preprocess.size_px": 32,
    "model.pooling": "mean",
    "splits.train": 0.12,
    "splits.val_select": 0.16,
    "splits.val_calib": 0.6,
    "splits.test": 0.12,
    "calibrate_scrc.alpha": 0.05,
    "calibrate_scrc.stream": "originals",
    "eval_selective.cell_rows": 0,
    "gate.repetitions": 200,
}


@dataclass(frozen=True)
class Plan:
    """What happens when, in nights from 0.

    Attributes:
        nights: how many.
        weak: training sees a handful of rows.
        poisoned: labels of new rows are turned around.
        rollback: an operator rolls back before this night.
        no_room: the disk has no room for this night.
        full_disk: the disk is full in the middle of this night, which then runs again.
        crash: the process is killed in the middle of this night, which then runs again.
        missing: the data directory is not there on this night.
        clock: the clock is two days behind on this night.
    """

    nights: int = 365
    weak: range = range(60, 67)
    poisoned: range = range(220, 227)
    rollback: int = 90
    no_room: int = 120
    full_disk: int = 130
    crash: int = 150
    missing: int = 170
    clock: int = 200


SHORT = Plan(9, range(2, 3), range(4, 5), 3, 5, 5, 6, 7, 8)


@dataclass(frozen=True)
class Line:
    """One night, as the table has it."""

    night: int
    date: str
    what: str
    verdict: str
    certificate: str
    looks: int
    looks_left: str
    exits: float | None
    live_risk: float | None
    rows: int
    disk_mb: float
    store_mb: float
    records_mb: float
    start_s: float
    seconds: float
    false_certificate: bool = False


class Watch(Silence):
    """When the first stage begins; and the end of this process where it is to crash."""

    def __init__(self, crash: bool = False) -> None:
        self.begun = time.perf_counter()
        self.first: float | None = None
        self._crash = crash

    @property
    def start_s(self) -> float:
        """Seconds to the first stage; 0 where none began."""
        return 0.0 if self.first is None else self.first - self.begun

    def stage(self, name: str, state: str) -> None:  # noqa: ARG002
        self.first = self.first or time.perf_counter()
        if self._crash and name == "eval_selective":
            os.kill(os.getpid(), signal.SIGKILL)

    def step(self, done: int, total: int, note: str = "") -> None:  # noqa: ARG002
        # The look is written down by then, and nothing is certified yet.
        if self._crash and note == "val_calib":
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Year:
    """A year of nights in one directory.

    Attributes:
        home: where it lives.
        plan: what happens when.
        seed: of everything that is drawn.
        first: rows of the first night.
        each: rows that come each night.
        weights_bytes: size of what stands for weights.
        keep: runs that are kept.
    """

    home: Path
    plan: Plan
    seed: int = 0
    first: int = 520
    each: int = 6
    weights_bytes: int = 1_000_000
    keep: int = 14

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def workspace(self) -> Path:
        return self.home / "workspace"

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    @property
    def config(self) -> RunConfig:
        return load_config("tiny", None, SETTINGS | {"gate.keep": self.keep})

    def now(self, night: int) -> Callable[[], datetime]:
        """The clock of a night, which goes on by real seconds."""
        begun = time.monotonic()
        behind = timedelta(days=2 if night == self.plan.clock else 0)
        return lambda: BEGIN + timedelta(days=night, seconds=time.monotonic() - begun) - behind

    def run(self, night: int, watch: Watch, tonight: Tonight, *, room: int | None = None) -> NightOutcome:
        watch.begun = time.perf_counter()
        return run_night(
            self.data,
            workspace=self.workspace,
            store=self.store.root,
            config=self.config,
            progress=watch,
            now=self.now(night),
            table=table(tonight),
            free=free_bytes if room is None else lambda _: room,
        )

    def nights(self) -> Iterator[Line]:
        """Run them; each is told when it is done."""
        plan = self.plan
        world = World(self.data, self.seed, self.first, self.each, plan.poisoned)
        fresh = true_labels_and_colours(self.seed)
        risks: dict[str, float] = {}
        for night in range(plan.nights):
            world.grow(night)
            tonight = Tonight(weak=night in plan.weak, weights_bytes=self.weights_bytes)
            told = list(self._before(night))
            watch, begun = Watch(), time.perf_counter()
            outcome, error = self._one(night, watch, tonight)
            seconds = time.perf_counter() - begun
            told += [error] if error else []
            params = None if outcome is None else outcome.params
            if outcome is not None and outcome.publication is not None and params is not None:
                risks[outcome.publication.bundle] = true_risk(outcome.run, params, fresh.labels, fresh.colours)
            current = self.store.current()
            looked = params is not None and bool(params.chains)
            left = None if params is None else params.budget.left
            yield Line(
                night=night,
                date=self.now(night)().date().isoformat(),
                what="; ".join(told),
                verdict="-" if outcome is None or outcome.publication is None else outcome.publication.verdict,
                certificate="-" if params is None else params.status,
                looks=int(looked),
                looks_left="-" if left is None else str(left - looked),
                exits=None if params is None or params.exit_coverage is None else params.exit_coverage.estimate,
                live_risk=None if current is None else risks.get(current.bundle),
                rows=len(world.rows),
                disk_mb=allocated([self.workspace, self.store.root]) / 1e6,
                store_mb=allocated([self.store.root], without=[self.workspace]) / 1e6,
                records_mb=allocated([self.store.root / "records"]) / 1e6,
                start_s=watch.start_s,
                seconds=seconds,
                false_certificate=params is not None
                and params.status == "CERTIFIED"
                and outcome is not None
                and outcome.publication is not None
                and risks[outcome.publication.bundle] > params.alpha,
            )

    def _before(self, night: int) -> Iterator[str]:
        """What happens before a night."""
        plan = self.plan
        if night in plan.weak:
            yield "weak training"
        if night in plan.poisoned:
            yield "poisoned labels"
        if night == plan.clock:
            yield "clock two days behind"
        if night == plan.rollback:
            try:
                yield f"rolled back to {self.store.rollback(now=self.now(night)()).bundle}"
            except CascadeError as error:
                yield f"no rollback: {error}"

    def _one(self, night: int, watch: Watch, tonight: Tonight) -> tuple[NightOutcome | None, str]:
        """A night with what befalls it, and what that was."""
        plan, told = self.plan, ""
        away = self.data.with_name("away")
        if night == plan.no_room:
            told = expected(lambda: self.run(night, Watch(), tonight, room=1000))
        if night == plan.full_disk:
            full = Tonight(full_disk=True, weights_bytes=self.weights_bytes)
            told += expected(lambda: self.run(night, Watch(), full))
        if night == plan.crash:
            told = f"killed, status {self._crash(night)}; run again"
        if night == plan.missing:
            self.data.rename(away)
            told = expected(lambda: self.run(night, Watch(), tonight))
            away.rename(self.data)
            return None, told
        return self.run(night, watch, tonight), told

    def _crash(self, night: int) -> int:
        """Run a night in a process of its own that is killed after its look."""
        command = [sys.executable, "-m", "benchmarks.year", "--crash", str(night), "--home", str(self.home)]
        command += ["--seed", str(self.seed), "--keep", str(self.keep), "--weights", str(self.weights_bytes)]
        return subprocess.run(command, check=False, capture_output=True).returncode

    def crash(self, night: int) -> None:
        """In that process."""
        self.run(night, Watch(crash=True), Tonight(weights_bytes=self.weights_bytes))


def expected(night: Callable[[], object]) -> str:
    """The error that a night ends with."""
    try:
        night()
    except (CascadeError, OSError) as error:
        return f"{type(error).__name__}: {error}. "
    return "no error! "


def true_risk(run: Path, params: ScrcParams, labels: np.ndarray, colours: np.ndarray) -> float:
    """Miss rate among exits on fresh rows with their labels by nature."""
    if params.rule is None:
        return 0.0
    said = params.rule.exit_labels(outputs_of(weights_of(run), colours))
    exits = (labels == 1) & (said >= 0)
    return float(np.sum((labels == 1) & (said == 0)) / max(1, exits.sum()))

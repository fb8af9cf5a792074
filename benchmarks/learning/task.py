"""One piece of work, which a process of its own does, and what it says when it is done."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Purpose = Literal["prepare", "tune", "run"]


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        key: its name; results are kept under it.
        table: `a` or `b`.
        purpose: to prepare something, to try a learning rate, or to train for the table.
        what: name of the method, or of what is prepared.
        seed: seed of the training.
        rate: peak learning rate.
        start: key of the task whose network is trained on, empty for none.
        needs: keys of tasks that come first.
    """

    key: str
    table: str
    purpose: Purpose
    what: str
    seed: int = 0
    rate: float = 0.0
    start: str = ""
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    """What a task found.

    Attributes:
        key: of the task.
        rate: peak learning rate.
        coverage: exit coverage that val_select promises, mean over folds.
        relaxed: the same at laxer levels, mean over folds.
        negative_loss: minus the log-loss on val_select, mean over folds.
        wall_s: seconds of training, all folds.
        cpu_s: seconds of processor time in them.
        memory_mib: most memory that the process had by the end of its first training.
        filled: views that training had to bring into the cache because no preparation had.
    """

    key: str
    rate: float = 0.0
    coverage: float = 0.0
    relaxed: float = 0.0
    negative_loss: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_mib: float = 0.0
    filled: int = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass
class Meter:
    """Measures the parts of a task that count as training."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_mib: float = 0.0
    filled: int = 0
    scores: list[tuple[float, float, float]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Within it time counts."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu
        # Of the first part: what is kept of it afterwards for other rows is no memory of training.
        self.memory_mib = self.memory_mib or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def tell(self, done: int, total: int, note: str) -> None:
        """What a training says of its progress; of it only the filling of the cache matters here."""
        if note.startswith("keeping the activations") and done == total:
            self.filled += total

    def result(self, key: str, rate: float) -> Result:
        """What was measured."""
        coverage, relaxed, negative_loss = np.mean(self.scores or [(0.0, 0.0, 0.0)], axis=0).tolist()
        return Result(
            key, rate, coverage, relaxed, negative_loss, self.wall_s, self.cpu_s, self.memory_mib, self.filled
        )

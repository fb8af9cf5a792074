"""What runs in the process of one task."""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from multiprocessing.connection import Connection
from pathlib import Path

from benchmarks.learning.arena import Workplace
from benchmarks.learning.methods import TABLES
from benchmarks.learning.preparations import arena_of, prepare
from benchmarks.learning.task import Meter, Task
from benchmarks.learning.trainings import Training

# Of glibc's mallopt.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
MOST_KEPT = 2**31 - 1


def work(home: Path, task: Task, answer: Connection) -> None:
    """Do a task and send its result; what it says on the way goes to its log."""
    place = Workplace.read(home)
    with place.path("logs", f"{task.key}.log").open("w") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    warnings.simplefilter("ignore")
    meter = Meter()
    if task.purpose == "prepare":
        _keep_memory()
        answer.send(prepare(place, task, meter))
    else:
        answer.send(Training(place, TABLES[task.table], arena_of(place, task.table), task, meter).run())


def _keep_memory() -> None:
    """Have the C library keep large activations, which it otherwise gives back after every layer.

    That takes longer than computing them. Trainings, whose memory is measured, run as they would anywhere.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(MMAP_MAX, 0)
        library.mallopt(TRIM_THRESHOLD, MOST_KEPT)

"""The cores of this process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
CPUINFO = Path("/proc/cpuinfo")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def instructions(read: Callable[[Path], str] = Path.read_text) -> str:
    """Hash of the instructions that the CPU has; `unknown` where the kernel does not tell.

    Args:
        read: reads a file of the kernel.
    """
    try:
        lines = read(CPUINFO).splitlines()
    except OSError:
        return "unknown"
    told = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(" ".join(sorted(told.partition(":")[2].split())).encode()).hexdigest()[:16]


def on_all_cores(make: Callable[..., Made], *items: Iterable[object]) -> list[Made]:
    """What `make` makes of items, in their order; a thread for each core, for work that lets go of the interpreter.

    Args:
        make: called from several threads at once; what it raises is raised here.
        items: its arguments, as `map` takes them.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(make, *items))

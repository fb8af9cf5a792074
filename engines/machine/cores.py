"""The cores of this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Made = TypeVar("Made")


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def on_all_cores(make: Callable[..., Made], *items: Iterable[object]) -> list[Made]:
    """What `make` makes of items, in their order; a thread for each core, for work that lets go of the interpreter.

    Args:
        make: called from several threads at once; what it raises is raised here.
        items: its arguments, as `map` takes them.
    """
    with ThreadPoolExecutor(usable_cores()) as pool:
        return list(pool.map(make, *items))

"""The units of work, by command; each runs in a process of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.on_gpu.options import Found, Options


@dataclass(frozen=True)
class Unit:
    """One of them.

    Attributes:
        name: of it, and of its file of results.
        where: its function.
        least_s: seconds without which it is not begun.
        most_s: after which it is ended.
    """

    name: str
    where: str
    least_s: float
    most_s: float

    def load(self) -> Callable[[Options], Found]:
        module, _, function = self.where.partition(":")
        found: Callable[[Options], Found] = getattr(importlib.import_module(f"benchmarks.on_gpu.{module}"), function)
        return found


COMMANDS: dict[str, tuple[Unit, ...]] = {
    "learning": (
        Unit("adapters", "training:adapters", 60, 240),
        Unit("stages", "training:stages", 120, 480),
    ),
    "engines": (
        Unit("latency-vit-s", "computing:latency_s", 60, 240),
        Unit("latency-vit-h", "computing:latency_h", 120, 400),
        Unit("proofs", "computing:proofs", 60, 300),
        Unit("swap", "computing:swap", 60, 240),
    ),
    "rtx": (Unit("tensorrt-rtx", "computing:rtx", 60, 480),),
}


def unit(name: str) -> Unit:
    """By its name."""
    return next(one for units in COMMANDS.values() for one in units if one.name == name)

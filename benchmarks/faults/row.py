"""One reproduction's outcome."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """What one reproduction measured.

    Attributes:
        fault: its number and what it is.
        measured: what is measured.
        value: what it was.
        good: what it has to be.
        shows: whether the fault shows.
    """

    fault: str
    measured: str
    value: str
    good: str
    shows: bool

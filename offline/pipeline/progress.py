"""Where a run tells how far it is."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Where a run tells how far it is."""

    def stage(self, name: str, state: str) -> None:
        """A stage is `running`, `done` or `cached`."""
        ...

    def step(self, done: int, total: int, note: str = "") -> None:
        """The running stage has done a part of its work."""
        ...


class Silence:
    """A `Progress` that tells nobody."""

    def stage(self, name: str, state: str) -> None:
        """See `Progress.stage`."""

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.step`."""

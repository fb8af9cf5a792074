"""One unit of the race is one training on one fold: its outcome is a file, so a race that is killed loses one unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from stage1.artifacts import Artifact, sha256_json
from stage1.errors import ArtifactError

KEY_LENGTH = 16


@dataclass(frozen=True)
class Unit:
    """A training to do.

    Attributes:
        recipe: name of the recipe, for a person to read.
        overrides: what the recipe changes of the config.
        share: of the epochs of a whole training.
        fold: that is held out.
        seed: of the training.
    """

    recipe: str
    overrides: Mapping[str, Any]
    share: float
    fold: int
    seed: int

    @property
    def key(self) -> str:
        """Names its file: the same training is done once, whichever recipes ask for it."""
        return sha256_json([dict(self.overrides), self.share, self.fold, self.seed])[:KEY_LENGTH]


class UnitOutcome(Artifact):
    """What came of a unit.

    Attributes:
        recipe: name of the recipe that asked for it first.
        share: see `Unit`.
        fold: see `Unit`.
        seed: see `Unit`.
        log_odds: calibrated log-odds of roadwork of each row of the fold, in their order; empty if it failed.
        failed: why there is none.
        seconds: that it took.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    recipe: str
    share: float
    fold: int
    seed: int
    log_odds: tuple[float, ...] = ()
    failed: str = ""
    seconds: float = 0.0


Work = Callable[[Unit], UnitOutcome]


@dataclass
class RaceProgress:
    """Tells how far a race is, in per cent of what it is expected to cost, and what it is doing.

    Attributes:
        tell: called with per cent done, 100, and a note.
    """

    tell: Callable[[int, int, str], None]
    _percent: int = 0
    _note: str = ""

    def at(self, done: float, goal: float, note: str) -> None:
        """So much of the race is done.

        Args:
            done: whole trainings.
            goal: that it is expected to take.
            note: what to show.
        """
        self._percent, self._note = min(100, round(100 * done / goal)), note
        self.tell(self._percent, 100, f"per cent: {note}")

    def inside(self, _done: int, _total: int, note: str) -> None:
        """The training that is under way says something."""
        self.tell(self._percent, 100, f"per cent: {self._note}; {note}")


class Executor(Protocol):
    """Does units, some at a time."""

    @property
    def width(self) -> int:
        """How many at a time."""
        ...

    def run(self, units: Sequence[Unit], work: Work) -> Iterator[tuple[Unit, UnitOutcome]]:
        """Each unit with its outcome, in any order.

        Raises:
            TrainingInterrupted: the process was told to end.
        """
        ...


class Sequential:
    """One unit after another, in this process."""

    width = 1

    def run(self, units: Sequence[Unit], work: Work) -> Iterator[tuple[Unit, UnitOutcome]]:
        """See `Executor.run`."""
        for unit in units:
            yield unit, work(unit)


@dataclass(frozen=True)
class Ledger:
    """The finished units of a race.

    Attributes:
        directory: of their files; belongs to one race.
    """

    directory: Path

    def read(self, unit: Unit) -> UnitOutcome | None:
        """The outcome of a unit; None if it is not finished."""
        try:
            return UnitOutcome.read(self._file(unit))
        except ArtifactError:
            return None

    def write(self, unit: Unit, outcome: UnitOutcome) -> None:
        """Keep an outcome, whole or not at all."""
        self.directory.mkdir(parents=True, exist_ok=True)
        outcome.write(self._file(unit))

    def _file(self, unit: Unit) -> Path:
        return self.directory / f"{unit.key}.json"

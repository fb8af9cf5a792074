"""A night that was begun and not finished: the rows that it began with, so that the next one can end it.

A training may take longer than a night is given. If the next night began with the rows that have come since, it would
begin the training anew, and so would every night after it. So it first ends what was begun, on the rows that that began
with, and then looks at the new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Self

from engines.errors import StoreError
from offline.config import RunConfig
from offline.data.dataset import Dataset, Row
from offline.errors import PipelineBusy, TrainingInterrupted
from offline.pipeline.progress import Progress
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError, CascadeError

FILE = "unfinished_night.json"
# So often a night is begun; then it is given up, and the next one begins with the rows that there are.
MOST_STARTS = 7
# What may be over by the next night; so may whatever the system has refused.
PASSING = (PipelineBusy, TrainingInterrupted, StoreError)
# The stage after which there is something to lose.
FIRST = "splits"


class UnfinishedNight(Artifact):
    """`unfinished_night.json` in the workspace, from the first stage after the splits to the end of a night.

    Attributes:
        began_at: when it was begun first, UTC, ISO 8601.
        starts: how often it was begun.
        config: of the night.
        data_sha256: hash of its data.
        rows: its rows.
        paths: where the files of rows are that lie elsewhere than their ids say.
        contents: hash of the file of each row.
        missing: ids of rows that were left out, because their image was not there.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    began_at: str
    starts: int
    config: RunConfig
    data_sha256: str
    rows: tuple[Row, ...]
    paths: dict[str, str]
    contents: dict[str, str | None]
    missing: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What it is called where a person reads of it."""
        times = "once" if self.starts == 1 else f"{self.starts} times"
        return f"the night of {self.began_at}, which was begun {times} and not finished"

    def on(self, data: Dataset) -> Dataset:
        """Its rows, with the files as they are now.

        Args:
            data: what is in the data directory now.
        """
        return replace(data, rows=self.rows, paths={**data.paths, **self.paths}, contents={}, missing=self.missing)


def read_unfinished(workspace: Path) -> UnfinishedNight | None:
    """The unfinished night of a workspace; None if there is none, or an older program left it."""
    try:
        return UnfinishedNight.read(workspace / FILE)
    except ArtifactError:
        return None


@dataclass(frozen=True)
class Unfinished:
    """What becomes of an unfinished night.

    Attributes:
        night: the night.
        data: its rows; None if it is given up.
        note: what a person should know of that, one sentence.
    """

    night: UnfinishedNight
    data: Dataset | None
    note: str


def to_finish(
    workspace: Path, data: Dataset, config: RunConfig, with_contents: Callable[[Dataset], Dataset]
) -> Unfinished | None:
    """What is to be finished before a night begins with new rows; None if nothing is, or it has these very rows.

    Args:
        workspace: of the nights.
        data: the rows that there are now.
        config: of the night that is to begin.
        with_contents: takes the hashes of the files of rows.
    """
    night = read_unfinished(workspace)
    if night is None or night.data_sha256 == data.sha256:
        return None
    if night.config != config:
        return Unfinished(night, None, f"{night.name}, is given up, because the settings are others now")
    if night.starts >= MOST_STARTS:
        return Unfinished(night, None, f"{night.name}, is given up, and this night begins with new rows")
    own = with_contents(night.on(data))
    changed = sum(own.contents.get(row) != taken for row, taken in night.contents.items())
    if changed:
        told = f"{night.name}, is given up, because {changed} of its pictures are gone or others now"
        return Unfinished(night, None, told)
    told = f"{night.name}, is finished first, on the {len(own)} rows that it began with; then come the {len(data)} rows"
    return Unfinished(night, own, f"{told} that there are now")


class Record:
    """Keeps `unfinished_night.json` while a night runs: a context manager and a `Progress`.

    A night that is killed or told to end leaves it, and so does one that a full disk or a store in use has stopped; one
    that ends by itself does not, and neither does one that stops at a mistake in data or settings, which the next night
    would only meet again.

    Args:
        workspace: where it is kept.
        data: the rows of the night, with their contents.
        config: of the night.
        now: the time, UTC, ISO 8601.
        progress: is told everything.
    """

    def __init__(self, workspace: Path, data: Dataset, config: RunConfig, now: str, progress: Progress) -> None:
        self._path, self._data, self._config, self._progress = workspace / FILE, data, config, progress
        before = read_unfinished(workspace)
        same = before is not None and before.data_sha256 == data.sha256 and before.config == config
        self._began, self._starts = (before.began_at, before.starts + 1) if same and before else (now, 1)
        self._kept = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        passes = isinstance(error, PASSING) or isinstance(error and error.__cause__, OSError)
        mistaken = isinstance(error, CascadeError) and not passes
        if error is None or mistaken:
            self._path.unlink(missing_ok=True)

    def stage(self, name: str, state: str) -> None:
        """See `Progress.stage`."""
        # Before the stage works: it may be killed at any moment.
        if state == "running" and name != FIRST and not self._kept:
            self._kept = True
            UnfinishedNight(
                began_at=self._began,
                starts=self._starts,
                config=self._config,
                data_sha256=self._data.sha256,
                rows=self._data.rows,
                paths={row: path for row, path in self._data.paths.items() if row in self._data.by_id},
                contents={row: self._data.contents.get(row) for row in self._data.ids},
                missing=self._data.missing,
            ).write(self._path)
        self._progress.stage(name, state)

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `Progress.step`."""
        self._progress.step(done, total, note)

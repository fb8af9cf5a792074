"""The pipeline engine: stages with content keys, committed in one rename, so that running again resumes.

A stage is handed what it declares to read, and nothing else: settings, rows, files of other stages. Its key is the hash
of all that, of its name and of its code, with all of this program that the code imports. A stage whose key is already
in the workspace is not run again; a stage of which anything that it reads has changed is. Its output directory appears
under its key only when it is complete: the manifest is written last, everything is flushed, and one rename commits it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Generic

from filelock import FileLock, Timeout
from pydantic import BaseModel

from engines.store.file_names import CONFIG
from engines.store.shared_file import replace_by_share
from engines.store.store import Store
from offline.errors import PipelineBusy, PipelineError
from offline.pipeline.choice import EVERYTHING, Choice
from offline.pipeline.content_key import View, key_of, run_id, stage_reads
from offline.pipeline.file_contents import CONTENTS, FileContents
from offline.pipeline.progress import Progress
from offline.pipeline.reads import Directory
from offline.pipeline.settings_view import narrowed
from offline.pipeline.stage import (
    CHECKPOINTS,
    MANIFEST,
    ORIGINALS,
    PIXELS,
    PREFIXES,
    REHEARSAL,
    SCORING,
    ConfigT,
    DataT,
    Stage,
    StageContext,
    StageManifest,
)
from offline.pipeline.stage_times import StageTime, note_time
from stage1.artifacts import fsync_directory, fsync_tree, sha256_file
from stage1.errors import ArtifactError

# Of one night: training and val_select, each with and without domain adaptation.
PREFIXES_KEPT = 4
# Views of pictures: as they are sent and as they train, with two settings each.
PIXELS_KEPT = 4
# So old, what whoever holds no lock was at work on is left over.
ABANDONED_S = 86_400.0
# So long a checkpoint waits for the stage that wrote it, and kept activations for a training; then their settings,
# data or code have been given up.
CHECKPOINT_DAYS = 14


@dataclass(frozen=True)
class Place(Generic[ConfigT, DataT]):
    """A stage as it is to run: what it is handed, and where its result is or will be.

    Attributes:
        view: what it is handed.
        inputs: directory of each stage that it needs, with the files that it reads.
        reads: everything that decides its outcome.
        key: hash of that.
        home: directory of its result.
    """

    view: View[ConfigT, DataT]
    inputs: Mapping[str, Directory]
    reads: Mapping[str, str]
    key: str
    home: Path

    @property
    def finished(self) -> bool:
        """Its result is there and whole."""
        return self.home.exists() and _complete(self.home)


@dataclass
class Pipeline(Generic[ConfigT, DataT]):
    """Runs stages in a workspace.

    Attributes:
        stages: in an order in which each stage comes after those it needs.
        workspace: where stage outputs and runs live; one run at a time.
        store: where bundles are published.
        data: the data, read once for the whole run.
        config: config of the run.
        now: the clock, UTC.
        progress: where to tell how far it is.
        prepare: the same data, after what stages may find in the workspace was made there; called before the first
            stage, when no other run is at work. It decides no outcome.
        on_done: told the name and the directory of each stage that is finished, while later ones still have to run.
    """

    stages: Sequence[Stage[ConfigT, DataT]]
    workspace: Path
    store: Store
    data: DataT
    config: ConfigT
    now: Callable[[], datetime]
    progress: Progress
    prepare: Callable[[DataT], DataT] = field(default=lambda data: data)
    on_done: Callable[[str, Path], None] = lambda _name, _home: None
    _done: dict[str, Path] = field(default_factory=dict)

    @cached_property
    def contents(self) -> FileContents:
        """Hashes of files beside the data."""
        return FileContents(self.workspace / CONTENTS)

    def run(self, choice: Choice = EVERYTHING) -> Path:
        """Run stages; finished ones are not run again.

        Args:
            choice: which ones; all by default.

        Returns:
            The run's directory, with links to every stage's files.

        Raises:
            PipelineBusy: another run holds the workspace.
            PipelineError: no such stage.
        """
        wanted, forced = choice.wanted(self.stages), choice.forced(self.stages)
        self.workspace.mkdir(parents=True, exist_ok=True)
        run = run_id(self.data.sha256, self.config)
        try:
            with FileLock(self.workspace / ".lock", timeout=0):
                self._sweep()
                self.data = self.prepare(self.data)
                asked = self.config
                for number, stage in enumerate(self.stages):
                    if stage.name in wanted:
                        self._done[stage.name] = self._ensure(stage, run, again=stage.name in forced)
                        self.on_done(stage.name, self._done[stage.name])
                        self._follow(number, wanted, run)
                return self._link(run, asked)
        except Timeout as error:
            raise PipelineBusy(
                f"{self.workspace}: another run is at work here; wait for it or use another workspace"
            ) from error

    @property
    def finished(self) -> dict[str, Path]:
        """Directory of each stage that has finished, by name, in the order in which they did."""
        return dict(self._done)

    def check_finished(self, name: str) -> None:
        """Make sure that a stage, with all that it needs, is kept in the workspace for this config and this data.

        Raises:
            PipelineError: it is not; names the first one that would run.
        """
        wanted = Choice(only=name).wanted(self.stages)
        for stage in self.stages:
            # What a stage decided for a kept run is in the config that was kept.
            if stage.name not in wanted or stage.decides is not None:
                continue
            place = self.place(stage)
            if not place.finished:
                raise PipelineError(
                    f"{self.workspace}: {stage.name} of this config and this data is not kept here; name the workspace "
                    "and the data that it was trained in and on, or train again with `cascade retrain`"
                )
            self._done[stage.name] = place.home

    def _follow(self, number: int, wanted: set[str], run: str) -> None:
        """Take over what a finished stage has decided; stages before it are made anew where that concerns them."""
        decided = self.stages[number]
        if decided.decides is None:
            return
        config = decided.decides(self.config, self._done[decided.name])
        if config == self.config:
            return
        self.config = config
        for stage in self.stages[:number]:
            if stage.name in wanted and not stage.always and self.place(stage).home != self._done[stage.name]:
                self._done[stage.name] = self._ensure(stage, run)

    def _ensure(self, stage: Stage[ConfigT, DataT], run: str, *, again: bool = False) -> Path:
        place = self.place(stage)
        if not stage.always and not again and place.finished:
            self.progress.stage(stage.name, "cached")
            return place.home
        self.progress.stage(stage.name, "running")
        self._execute(stage, place, run)
        self.progress.stage(stage.name, "done")
        return place.home

    def place(self, stage: Stage[ConfigT, DataT], finished: Mapping[str, Path] | None = None) -> Place[ConfigT, DataT]:
        """What a stage is handed, and where its result is or will be.

        Args:
            stage: the stage.
            finished: directory of each stage that it reads; None for what this run has finished.
        """
        reads = stage.reads(self.config)
        homes = self._done if finished is None else finished
        read = [name for name in stage.needs if reads.files.get(name)]
        written = {name: StageManifest.read(homes[name] / MANIFEST).files for name in read}
        view = View(
            config=narrowed(self.config, reads.settings),
            data=reads.rows(self.data, homes),
            files={name: reads.contents(name, files) for name, files in written.items()},
            outside=self.contents.below([*reads.outside, *stage.in_store(self.store.root)]),
            machine=stage.machine(self.config),
        )
        inputs = {name: reads.directory(name, homes[name]) for name in stage.needs if name in homes}
        parts = stage_reads(stage, view)
        key = key_of(stage.name, parts)
        return Place(view, inputs, parts, key, self.workspace / "stages" / stage.name / key)

    def _execute(self, stage: Stage[ConfigT, DataT], place: Place[ConfigT, DataT], run: str) -> None:
        home = place.home
        home.parent.mkdir(parents=True, exist_ok=True)
        out = home.parent / f".partial-{os.getpid()}-{secrets.token_hex(4)}"
        out.mkdir()
        started, clock = self.now(), time.monotonic()
        context = self._context(place, out, run)
        resumed = context.checkpoints.exists()
        try:
            stage.guard(replace(context, config=self.config, data=self.data, inputs=self._homes(stage)))
            self._run(stage, context)
            self._sign(stage, place, out, run, started)
            fsync_tree(out)
            if home.exists():
                shutil.rmtree(home)
            out.rename(home)
            fsync_directory(home.parent)
            shutil.rmtree(context.checkpoints, ignore_errors=True)
            took, at = time.monotonic() - clock, self.now().isoformat(timespec="seconds")
            note_time(
                self.workspace,
                StageTime(stage=stage.name, key=place.key, seconds=round(took, 3), resumed=resumed, at=at),
            )
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def rehearse(self, stage: Stage[ConfigT, DataT], finished: Mapping[str, Path], workspace: Path, out: Path) -> None:
        """Run a stage beside a copy of its files of the workspace.

        Args:
            stage: the stage.
            finished: directory of each stage that it reads.
            workspace: directory of the copies.
            out: where it writes.
        """
        place = self.place(stage, finished)
        self._run(stage, replace(self._context(place, out, ""), workspace=workspace))
        self._sign(stage, place, out, "", self.now())

    def _context(self, place: Place[ConfigT, DataT], out: Path, run: str) -> StageContext[ConfigT, DataT]:
        return StageContext(
            config=place.view.config,
            data=place.view.data,
            workspace=self.workspace,
            store=self.store,
            out=out,
            inputs=place.inputs,
            key=place.key,
            run=run,
            now=self.now,
            progress=self.progress,
        )

    def _sign(
        self, stage: Stage[ConfigT, DataT], place: Place[ConfigT, DataT], out: Path, run: str, started: datetime
    ) -> None:
        """Write the manifest of what a stage has written."""
        StageManifest(
            stage=stage.name,
            key=place.key,
            run=run,
            inputs={name: home.name for name, home in self._homes(stage).items()},
            reads=dict(place.reads),
            files={p.relative_to(out).as_posix(): sha256_file(p) for p in sorted(out.rglob("*")) if p.is_file()},
            started_at=started.isoformat(timespec="seconds"),
            finished_at=self.now().isoformat(timespec="seconds"),
        ).write(out / MANIFEST)

    def _homes(self, stage: Stage[ConfigT, DataT]) -> dict[str, Path]:
        return {name: self._done[name] for name in stage.needs if name in self._done}

    def _run(self, stage: Stage[ConfigT, DataT], context: StageContext[ConfigT, DataT]) -> None:
        try:
            stage.run(context)
        except AttributeError as error:
            if isinstance(error.obj, BaseModel) and error.name in type(error.obj).model_fields:
                raise PipelineError(
                    f"{stage.name} reads {type(error.obj).__name__}.{error.name}, and what the stage reads does "
                    "not name it: this is a mistake in the program, please report it"
                ) from error
            raise

    def _sweep(self) -> None:
        """Remove what a killed run left; the lock is held, so no run is at work."""
        remove_leftovers(self.workspace)
        given_up = self.now().timestamp() - timedelta(days=CHECKPOINT_DAYS).total_seconds()
        checkpoints, prefixes = (list((self.workspace / name).glob("*")) for name in (CHECKPOINTS, PREFIXES))
        # Other frozen weights, after an adaptation for example, have a directory of their own, and each is large.
        many = sorted(prefixes, key=lambda path: path.stat().st_mtime)[:-PREFIXES_KEPT]
        pixels = sorted((self.workspace / PIXELS).glob("*"), key=lambda path: path.stat().st_mtime)
        for path in pixels:
            # Files are of an earlier version, which kept a file for each set.
            if path.is_file():
                path.unlink()
            elif path in pixels[:-PIXELS_KEPT] or path.stat().st_mtime < given_up:
                shutil.rmtree(path, ignore_errors=True)
        for directory in {*many, *(path for path in (*checkpoints, *prefixes) if path.stat().st_mtime < given_up)}:
            shutil.rmtree(directory, ignore_errors=True)
        for copy in (self.workspace / ORIGINALS).glob("*/*"):
            if copy.suffix == ".partial" or copy.stat().st_mtime < given_up:
                copy.unlink()

    def _link(self, run: str, asked: ConfigT) -> Path:
        home = self.workspace / "runs" / run
        home.mkdir(parents=True, exist_ok=True)
        # What a later stage made of a file takes the place of it.
        files = {path.name: path for directory in self._done.values() for path in directory.iterdir() if path.is_file()}
        for name in sorted(files.keys() - {MANIFEST}):
            replace_by_share(files[name], home / name)
        asked.write(home / CONFIG)
        return home


def remove_leftovers(workspace: Path) -> None:
    """Remove what somebody who was killed had begun to write or to remove; the lock of the workspace is held."""
    for kind in ("stages/*/.partial-*", "stages/*/.removed-*", "runs/.removed-*", f"{SCORING}*"):
        for leftover in workspace.glob(kind):
            shutil.rmtree(leftover, ignore_errors=True)
    # Whoever plans, or takes hashes of files, does not hold it.
    before = time.time() - ABANDONED_S
    for leftover in (*workspace.glob(f"{REHEARSAL}*"), *workspace.glob(".*.partial")):
        with suppress(OSError):
            if leftover.stat().st_mtime >= before:
                continue
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink()


def _complete(home: Path) -> bool:
    """The manifest is there and every file has its hash; a damaged stage is run again."""
    try:
        manifest = StageManifest.read(home / MANIFEST)
        return all(sha256_file(home / name) == digest for name, digest in manifest.files.items())
    except (ArtifactError, OSError):
        return False

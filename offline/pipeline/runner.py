"""The pipeline engine: stages with content keys, committed in one rename, so that running again resumes.

A stage's key is the hash of its name, its own part of the config, the hashes of its inputs and its code, with all of
this program that the code imports. A stage whose key is already in the workspace is not run again; a stage whose
config, input or code changed is. Its output directory appears under its key only when it is complete: the manifest is
written last, everything is flushed, and one rename commits it.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Generic

from filelock import FileLock, Timeout

from engines.store.file_names import CONFIG
from engines.store.store import Store
from offline.errors import PipelineBusy, PipelineError
from offline.pipeline.content_key import run_id, stage_key
from offline.pipeline.progress import Progress
from offline.pipeline.stage import (
    CHECKPOINTS,
    MANIFEST,
    ORIGINALS,
    PIXELS,
    PREFIXES,
    ConfigT,
    DataT,
    Stage,
    StageContext,
    StageManifest,
)
from stage1.artifacts import fsync_directory, fsync_tree, sha256_file
from stage1.errors import ArtifactError

# Of one night: training and val_select, each with and without domain adaptation.
PREFIXES_KEPT = 4
# Sets of pictures: those that train, choose, judge features and are reported on, of two nights.
PIXELS_KEPT = 8
# So long a checkpoint waits for the stage that wrote it, and kept activations for a training; then their settings,
# data or code have been given up.
CHECKPOINT_DAYS = 14


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
    """

    stages: Sequence[Stage[ConfigT, DataT]]
    workspace: Path
    store: Store
    data: DataT
    config: ConfigT
    now: Callable[[], datetime]
    progress: Progress
    _done: dict[str, Path] = field(default_factory=dict)

    def run(self, only: str | None = None) -> Path:
        """Run all stages, or one and those it needs; finished ones are not run again.

        Args:
            only: name of the last stage to run; None for all.

        Returns:
            The run's directory, with links to every stage's files.

        Raises:
            PipelineBusy: another run holds the workspace.
            PipelineError: no such stage.
        """
        wanted = self._wanted(only)
        self.workspace.mkdir(parents=True, exist_ok=True)
        run = run_id(self.data.sha256, self.config)
        try:
            with FileLock(self.workspace / ".lock", timeout=0):
                self._sweep()
                asked = self.config
                for number, stage in enumerate(self.stages):
                    if stage.name in wanted:
                        self._done[stage.name] = self._ensure(stage, run)
                        self._follow(number, wanted, run)
                return self._link(run, asked)
        except Timeout as error:
            raise PipelineBusy(
                f"{self.workspace}: another run is at work here; wait for it or use another workspace"
            ) from error

    def check_finished(self, name: str) -> None:
        """Make sure that a stage, with all that it needs, is kept in the workspace for this config and this data.

        Raises:
            PipelineError: it is not; names the first one that would run.
        """
        wanted = self._wanted(name)
        for stage in self.stages:
            # What a stage decided for a kept run is in the config that was kept.
            if stage.name not in wanted or stage.decides is not None:
                continue
            home = self._home(stage)[1]
            if not home.exists() or not _complete(home):
                raise PipelineError(
                    f"{self.workspace}: {stage.name} of this config and this data is not kept here; name the workspace "
                    "and the data that it was trained in and on, or train again with `cascade retrain`"
                )
            self._done[stage.name] = home

    def _wanted(self, only: str | None) -> set[str]:
        by_name = {stage.name: stage for stage in self.stages}
        if only is None:
            return set(by_name)
        if only not in by_name:
            raise PipelineError(f"no stage is called {only!r}; the stages are {', '.join(by_name)}")
        before = list(by_name)[: list(by_name).index(only)]
        wanted, queue = set[str](), [only, *(name for name in before if by_name[name].decides is not None)]
        while queue:
            name = queue.pop()
            wanted.add(name)
            queue += by_name[name].needs
        return wanted

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
            if stage.name in wanted and not stage.always and self._home(stage)[1] != self._done[stage.name]:
                self._done[stage.name] = self._ensure(stage, run)

    def _ensure(self, stage: Stage[ConfigT, DataT], run: str) -> Path:
        inputs, home = self._home(stage)
        if home.exists() and not stage.always and _complete(home):
            self.progress.stage(stage.name, "cached")
            return home
        self.progress.stage(stage.name, "running")
        self._execute(stage, home.name, inputs, home, run)
        self.progress.stage(stage.name, "done")
        return home

    def _home(self, stage: Stage[ConfigT, DataT]) -> tuple[dict[str, str], Path]:
        """Hashes of what a stage needs, and the directory that its result has or will have."""
        inputs = {name: StageManifest.read(self._done[name] / MANIFEST).content_sha256 for name in stage.needs}
        key = stage_key(stage, self.config, self.data.sha256, inputs, self.store.root)
        return inputs, self.workspace / "stages" / stage.name / key

    def _execute(self, stage: Stage[ConfigT, DataT], key: str, inputs: dict[str, str], home: Path, run: str) -> None:
        home.parent.mkdir(parents=True, exist_ok=True)
        out = home.parent / f".partial-{os.getpid()}-{secrets.token_hex(4)}"
        out.mkdir()
        started = self.now()
        context = StageContext(
            config=self.config,
            data=self.data,
            workspace=self.workspace,
            store=self.store,
            out=out,
            inputs={name: self._done[name] for name in stage.needs},
            key=key,
            run=run,
            now=self.now,
            progress=self.progress,
        )
        try:
            stage.run(context)
            files = {p.relative_to(out).as_posix(): sha256_file(p) for p in sorted(out.rglob("*")) if p.is_file()}
            StageManifest(
                stage=stage.name,
                key=key,
                inputs=inputs,
                files=files,
                started_at=started.isoformat(timespec="seconds"),
                finished_at=self.now().isoformat(timespec="seconds"),
            ).write(out / MANIFEST)
            fsync_tree(out)
            if home.exists():
                shutil.rmtree(home)
            out.rename(home)
            fsync_directory(home.parent)
            shutil.rmtree(context.checkpoints, ignore_errors=True)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what a killed run left; the lock is held, so no run is at work."""
        for leftover in (self.workspace / "stages").glob("*/.partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        given_up = self.now().timestamp() - timedelta(days=CHECKPOINT_DAYS).total_seconds()
        checkpoints, prefixes = (list((self.workspace / name).glob("*")) for name in (CHECKPOINTS, PREFIXES))
        # Other frozen weights, after an adaptation for example, have a directory of their own, and each is large.
        many = sorted(prefixes, key=lambda path: path.stat().st_mtime)[:-PREFIXES_KEPT]
        pixels = sorted((self.workspace / PIXELS).glob("*"), key=lambda path: path.stat().st_mtime)
        for path in pixels:
            # Names that begin with a dot are of files that a killed run did not finish.
            if path.name.startswith(".") or path in pixels[:-PIXELS_KEPT] or path.stat().st_mtime < given_up:
                path.unlink()
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
            (home / name).unlink(missing_ok=True)
            os.link(files[name], home / name)
        asked.write(home / CONFIG)
        return home


def _complete(home: Path) -> bool:
    """The manifest is there and every file has its hash; a damaged stage is run again."""
    try:
        manifest = StageManifest.read(home / MANIFEST)
        return all(sha256_file(home / name) == digest for name, digest in manifest.files.items())
    except (ArtifactError, OSError):
        return False

"""What a run would do, and why: which stages would run, and what of all that they read has changed since which run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from typing import Generic

from offline.errors import PipelineError
from offline.pipeline.choice import EVERYTHING, Choice
from offline.pipeline.content_key import PACKAGE, SETTING, setting_parts
from offline.pipeline.runner import Pipeline
from offline.pipeline.settings_view import narrowed
from offline.pipeline.stage import MANIFEST, REHEARSAL, ConfigT, DataT, Stage, StageManifest
from offline.pipeline.stage_times import StageTime, duration_words, expected_seconds, times_in
from stage1.errors import ArtifactError

SHOWN = 3
WAITS = "it reads what"


@dataclass(frozen=True)
class Planned:
    """What would become of one stage.

    Attributes:
        stage: its name.
        runs: it would run; otherwise its result is taken as it is.
        why: why it would run, one reason each; empty if it would not.
        since: the run that made its last result, and when; empty if there is none.
        seconds: how long it took before; None if it never ran.
        follows: it would run because of another one alone, and is spared if that one writes the very same again.
    """

    stage: str
    runs: bool
    why: tuple[str, ...] = ()
    since: str = ""
    seconds: float | None = None
    follows: bool = False

    def __str__(self) -> str:
        if not self.runs:
            return f"{self.stage:<20} kept"
        took = "never ran before" if self.seconds is None else f"about {duration_words(self.seconds)}"
        reasons = "; ".join((*self.why[:SHOWN], *([f"{len(self.why) - SHOWN} more"] if len(self.why) > SHOWN else [])))
        word = "follows" if self.follows else "runs"
        return f"{self.stage:<20} {word}, {took}: {reasons}{f' (since {self.since})' if self.since else ''}"


class _Waits(PipelineError):
    """A stage reads what another one has not written yet."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class _Homes(dict[str, Path]):
    """Directories of finished stages; that of another one is waited for."""

    def __missing__(self, name: str) -> Path:
        raise _Waits(name)


def plan(pipeline: Pipeline[ConfigT, DataT], choice: Choice = EVERYTHING) -> list[Planned]:
    """Say what a run would do; nothing in the workspace is changed but what is known of files.

    A stage that follows from one that would run is said to run: it is spared only if that one happens to write the very
    same again. What a stage with files to rehearse on writes is found out, so nothing is said to follow from it
    without need.

    Args:
        pipeline: as for a run.
        choice: which stages are asked for.

    Raises:
        PipelineError: no stage is called so.
        OfflineError: a rehearsed stage would stop.
    """
    with ExitStack() as stack:
        return _Plan(pipeline, choice, stack).found()


def plan_words(planned: Sequence[Planned]) -> str:
    """A plan as a person reads it, one line a stage and one for all."""
    running = [one for one in planned if one.runs]
    known = [one.seconds for one in running if one.seconds is not None]
    total = f"about {duration_words(sum(known))} by past runs" if known else "no past run says how long that takes"
    if known and len(known) < len(running):
        total += f", and {len(running) - len(known)} of them never ran before"
    return "\n".join([*map(str, planned), f"{len(running)} of {len(planned)} stages would run: {total}"])


class _Plan(Generic[ConfigT, DataT]):
    def __init__(self, pipeline: Pipeline[ConfigT, DataT], choice: Choice, stack: ExitStack) -> None:
        self._pipeline, self._stack = pipeline, stack
        self._stages = pipeline.stages
        self._wanted, self._forced = choice.wanted(self._stages), choice.forced(self._stages)
        self._times: list[StageTime] = times_in(pipeline.workspace)
        self._homes = _Homes()
        self._undecided = ""

    def found(self) -> list[Planned]:
        found: dict[str, Planned] = {}
        for number, stage in enumerate(self._stages):
            if stage.name not in self._wanted:
                continue
            found[stage.name] = self._one(stage)
            if stage.decides is None:
                continue
            if stage.name not in self._homes:
                self._undecided = stage.name if stage.may_decide(self._pipeline.config) else ""
                continue
            decided = stage.decides(self._pipeline.config, self._homes[stage.name])
            if decided != self._pipeline.config:
                self._pipeline.config = decided
                # Stages before it that the choice concerns are made anew.
                for before in self._stages[:number]:
                    if before.name in self._wanted and not before.always:
                        again = self._one(before)
                        found[before.name] = again if again.runs else found[before.name]
        return [found[stage.name] for stage in self._stages if stage.name in found]

    def _one(self, stage: Stage[ConfigT, DataT]) -> Planned:
        last = newest(self._pipeline.workspace / "stages" / stage.name)
        why = self._why(stage, last)
        named = last is not None and bool(why) and not why[0].startswith("it ")
        since = f"run {last.run}, {last.finished_at}" if named and last is not None else ""
        follows = not stage.always and len(why) == 1 and why[0].startswith(WAITS) and stage.name not in self._forced
        return Planned(stage.name, bool(why), why, since, expected_seconds(self._times, stage.name), follows)

    def _why(self, stage: Stage[ConfigT, DataT], last: StageManifest | None) -> tuple[str, ...]:
        """Why a stage would run; nothing if it would not. Where what it writes is known, that is noted."""
        self._homes.pop(stage.name, None)
        try:
            place = self._pipeline.place(stage, self._homes)
        except _Waits as waits:
            return (*self._changed_settings(stage, last), f"{WAITS} {waits.name} writes")
        if place.finished:
            self._homes[stage.name] = place.home
        elif last is None:
            there = any((self._pipeline.workspace / "stages" / stage.name).glob(f"*/{MANIFEST}"))
            return (
                "its last result is of an older program, or damaged" if there else "it has never been finished here",
            )
        elif stage.rehearsed:
            self._homes[stage.name] = self._rehearsed(stage)
        if self._undecided:
            return (f"it depends on what {self._undecided} decides",)
        if not place.finished:
            return tuple(changes(last.reads, place.reads)) if last is not None else ()
        if stage.name in self._forced:
            return ("it is asked for",)
        return ("it runs every time",) if stage.always else ()

    def _changed_settings(self, stage: Stage[ConfigT, DataT], last: StageManifest | None) -> tuple[str, ...]:
        """Settings of a stage that are others now, where the rest of what it reads is not known yet."""
        if last is None:
            return ()
        config = narrowed(self._pipeline.config, stage.reads(self._pipeline.config).settings)
        now = setting_parts(config.model_dump(mode="json"))
        before = {name: value for name, value in last.reads.items() if name.startswith(SETTING)}
        return tuple(changes(before, now)) if before else ()

    def _rehearsed(self, stage: Stage[ConfigT, DataT]) -> Path:
        """What a stage writes where its files of the workspace are copies."""
        pipeline = self._pipeline
        place = tempfile.TemporaryDirectory(dir=pipeline.workspace, prefix=REHEARSAL)
        copy = Path(self._stack.enter_context(place))
        for name in stage.rehearsed:
            if (pipeline.workspace / name).exists():
                copyfile(pipeline.workspace / name, copy / name)
        out = copy / "out"
        out.mkdir()
        pipeline.rehearse(stage, self._homes, copy, out)
        return out


def newest(stage: Path) -> StageManifest | None:
    """The manifest of the result of a stage that was finished last; None if there is none.

    Args:
        stage: directory of its results.
    """
    found = []
    for path in stage.glob(f"*/{MANIFEST}"):
        try:
            found.append(StageManifest.read(path))
        except ArtifactError:
            continue
    return max(found, key=lambda one: one.finished_at, default=None)


def changes(before: Mapping[str, str], after: Mapping[str, str]) -> Iterator[str]:
    """What of all that a stage reads is another one now, in words.

    Args:
        before: see `offline.pipeline.content_key.stage_reads`.
        after: the same, now.
    """
    for name in sorted(before.keys() | after.keys(), key=lambda one: (one not in after, one)):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if name.startswith((SETTING, PACKAGE)):
            yield f"{name}: {old or 'not read'} -> {new or 'not read'}"
        elif old is None or new is None:
            yield f"{name} is {'new' if old is None else 'gone'}"
        else:
            yield f"{name} changed"

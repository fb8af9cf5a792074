"""What a person sees while the pipeline works: bars on a terminal, one line in a while elsewhere, JSON for a parent."""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from typing import IO, Protocol, Self, TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

STEP_EVERY_S = 0.25
LINE_EVERY_S = 15.0


class RunDisplay(Protocol):
    """Shows the progress of a run; see `offline.pipeline.progress.Progress`."""

    def stage(self, name: str, state: str) -> None:
        """A stage is `running`, `done` or `cached`."""
        ...

    def step(self, done: int, total: int, note: str = "") -> None:
        """The running stage has done a part of its work."""
        ...

    def note(self, text: str) -> None:
        """Something that a person should know of the run."""
        ...

    def __enter__(self) -> Self:
        """Start showing."""
        ...

    def __exit__(self, *_: object) -> None:
        """Stop showing."""
        ...


class JsonDisplay:
    """One JSON object a line on a stream, for a program that started this one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._last = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, name: str, state: str) -> None:
        """See `RunDisplay.stage`."""
        self._write({"stage": name, "state": state})

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `RunDisplay.step`."""
        now = time.monotonic()
        if done == total or now - self._last >= STEP_EVERY_S:
            self._last = now
            self._write({"done": done, "total": total, "note": note})

    def note(self, text: str) -> None:
        """See `RunDisplay.note`."""
        self._write({"message": text})

    def finished(self, run: str) -> None:
        """Tell where the run's files are."""
        self._write({"run": run})

    def _write(self, record: dict[str, object]) -> None:
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()


class LineDisplay:
    """Plain lines: each stage, and one line every quarter minute inside a long one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._started = time.monotonic()
        self._last = self._started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stage(self, name: str, state: str) -> None:
        """See `RunDisplay.stage`."""
        self._write(f"{name}: {state}")

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `RunDisplay.step`."""
        if time.monotonic() - self._last >= LINE_EVERY_S:
            self._write(f"  {done} of {total} {note}".rstrip())

    def note(self, text: str) -> None:
        """See `RunDisplay.note`."""
        self._write(text)

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        self._stream.write(f"[{self._last - self._started:6.1f} s] {text}\n")
        self._stream.flush()


class Bars(Protocol):
    """Several tasks at a time; the part of `rich.progress.Progress` that is used here."""

    def add_task(self, description: str, *, total: float | None, completed: int = 0, note: str = "") -> TaskID:
        """Begin a task."""
        ...

    def update(
        self, task_id: TaskID, *, total: float | None = None, completed: float | None = None, note: str | None = None
    ) -> None:
        """Say how far it is."""
        ...

    def __enter__(self) -> Self:
        """Start showing."""
        ...

    def __exit__(self, *_: object) -> None:
        """Stop showing."""
        ...


@dataclass
class _Line:
    description: str
    total: float | None
    note: str = ""
    finished: bool = False


class LineBars:
    """Tasks as plain lines, for logs: one when a task begins, one when it ends, and one in a while between.

    Args:
        stream: where to write.
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._started = self._last = time.monotonic()
        self._tasks: list[_Line] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_task(self, description: str, *, total: float | None, completed: int = 0, note: str = "") -> TaskID:
        """See `Bars.add_task`."""
        with self._lock:
            task = TaskID(len(self._tasks))
            self._tasks.append(_Line(description, total))
        self._write(description)
        if completed:
            self.update(task, completed=completed, note=note)
        return task

    def update(
        self, task_id: TaskID, *, total: float | None = None, completed: float | None = None, note: str | None = None
    ) -> None:
        """See `Bars.update`."""
        with self._lock:
            task = self._tasks[task_id]
            task.total = task.total if total is None else total
            task.note = task.note if note is None else note
            ended = completed is not None and task.total is not None and completed >= task.total and not task.finished
            task.finished = task.finished or ended
            due = time.monotonic() - self._last >= LINE_EVERY_S
        if ended:
            self._write(f"{task.description}: done {task.note}".rstrip())
        elif due and completed is not None and not task.finished:
            self._write(f"{task.description}: {completed:.0f} of {task.total or 0:.0f} {task.note}".rstrip())

    def _write(self, text: str) -> None:
        self._last = time.monotonic()
        self._stream.write(f"[{self._last - self._started:6.1f} s] {text}\n")
        self._stream.flush()


def bars(console: Console) -> Bars:
    """Bars on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        return LineBars(console.file)
    return cast(
        "Bars",
        Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[note]}", justify="left"),
            console=console,
        ),
    )


class BarDisplay:
    """One bar a stage, on a terminal.

    Args:
        console: where to draw; None for standard error.
        progress: draw into bars that exist already.
        prefix: put before the name of each stage.
        show_cached: draw stages that were done before, too.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        progress: Bars | None = None,
        prefix: str = "",
        show_cached: bool = True,
    ) -> None:
        self._show_cached = show_cached
        self._owned = progress is None
        self._bars = progress or bars(console or Console(stderr=True))
        self._prefix = prefix
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._owned:
            self._bars.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._owned:
            self._bars.__exit__(*_)

    def stage(self, name: str, state: str) -> None:
        """See `RunDisplay.stage`."""
        if state == "running":
            self._task = self._bars.add_task(f"{self._prefix}{name}", total=None, note="")
        elif state == "cached":
            if self._show_cached:
                self._bars.update(self._bars.add_task(f"{self._prefix}{name}", total=1, note="up to date"), completed=1)
        elif self._task is not None:
            self._bars.update(self._task, total=1, completed=1)
            self._task = None

    def step(self, done: int, total: int, note: str = "") -> None:
        """See `RunDisplay.step`."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total, note=note)

    def note(self, text: str) -> None:
        """See `RunDisplay.note`; while bars are drawn, standard error is written above them."""
        sys.stderr.write(f"{text}\n")


def display(kind: str = "auto") -> RunDisplay:
    """The display for `--progress`: `json`, `lines`, `bars`, or `auto` by whether standard error is a terminal."""
    if kind == "json":
        return JsonDisplay()
    if kind == "bars" or (kind == "auto" and sys.stderr.isatty()):
        return BarDisplay()
    return LineDisplay()

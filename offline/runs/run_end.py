"""What surrounds a run: room for it on the disk before, and after it a line in `runs.jsonl` and the collection."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from engines.errors import StoreError, UnknownBundle
from engines.store.store import Store
from offline.config import RunConfig
from offline.errors import OfflineError, PipelineBusy
from offline.learning.throughput.cost import transformer_of
from offline.publish.settings import GateSettings
from offline.runs.collection import Removal, collect, unfinished_bytes
from offline.runs.disk_space import check_room, free_bytes, gigabytes, night_bytes
from offline.runs.run_record import RunOutcome, RunRecord, append_run, read_runs, stage_runs, written_bytes
from stage1.errors import Stage1Error


@dataclass(frozen=True)
class RunEnd:
    """A run that has come to its end.

    Attributes:
        run: its directory.
        data_sha256: hash of its data.
        rows: number of labelled images.
        started: when it began.
        last: the last stage that was asked for.
        finished: directory of each of its stages, by name.
    """

    run: Path
    data_sha256: str
    rows: int
    started: datetime
    last: str
    finished: Mapping[str, Path]


def room_needed(workspace: Path, config: RunConfig) -> tuple[int, str]:
    """Bytes that a night writes which are not there yet, and how that is known; nothing where nothing tells.

    Args:
        workspace: where it writes.
        config: of the night.
    """
    transformer = transformer_of(config.model)
    sizes = [record.disk_bytes for record in read_runs(workspace)]
    need, reason = night_bytes(sizes, None if transformer is None else transformer.parameters)
    # What an unfinished night has written is there already.
    return max(0, need - unfinished_bytes(workspace)), reason


def check_room_for(
    workspace: Path, store: Store, config: RunConfig, now: datetime, *, free: Callable[[Path], int] = free_bytes
) -> None:
    """Stop before a night that the disk has no room for; see `check_room`.

    Args:
        workspace: where it writes; the store may share its bytes, and needs a disk of its own filled only once more.
        store: where it publishes.
        config: of the night.
        now: wall-clock time, UTC.
        free: tells the room on the disk of a directory, bytes.

    Raises:
        DiskFull: there is too little.
    """
    need, reason = room_needed(workspace, config)

    def removing() -> None:
        with contextlib.suppress(PipelineBusy):
            collect(workspace, store, config.gate, now)

    for place in (workspace, store.root):
        check_room(place, need, reason, collect=removing, free=free)


def note_and_collect(
    workspace: Path,
    store: Store,
    settings: GateSettings,
    ended: RunEnd,
    now: datetime,
    outcome: RunOutcome | None = None,
) -> tuple[str, ...]:
    """Write a run down, and remove what nobody needs any more.

    Args:
        workspace: of the run.
        store: where it published.
        settings: what is kept.
        ended: the run.
        now: wall-clock time, UTC.
        outcome: what it came to; None if it ended before it published.

    Returns:
        What was removed, or why nothing was, in words; nothing if there was nothing to remove.
    """
    stages = stage_runs(ended.finished, ended.started)
    places = [ended.run]
    if outcome is not None:
        with contextlib.suppress(UnknownBundle):
            places.append(store.path(outcome.bundle))
    record = RunRecord(
        run=ended.run.name,
        data_sha256=ended.data_sha256,
        rows=ended.rows,
        started_at=ended.started.isoformat(timespec="seconds"),
        finished_at=now.isoformat(timespec="seconds"),
        seconds=max(0.0, (now - ended.started).total_seconds()),
        last=ended.last,
        stages=stages,
        disk_bytes=written_bytes(ended.finished, stages, places),
        outcome=outcome,
    )
    append_run(workspace, record)
    try:
        removed = collect(workspace, store, settings, now)
    except (OfflineError, StoreError, Stage1Error, OSError) as error:
        # The night is done, and the next one collects again.
        return (f"nothing was removed from the disk: {error}",)
    return removal_words(removed)


def removal_words(removed: Removal) -> tuple[str, ...]:
    """What was removed, in one sentence; nothing if nothing was."""
    counted = [(len(removed.bundles), "bundles"), (len(removed.runs), "runs"), (len(removed.stages), "stages")]
    told = ", ".join(f"{count} {what}" for count, what in counted if count)
    return (f"removed from the disk: {told}, {gigabytes(removed.freed)}",) if told else ()

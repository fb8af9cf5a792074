"""What is kept of runs and bundles, and the removal of the rest.

The newest runs are kept whole, with their bundles; so is whatever the current bundle, the one before it, one that a
process uses, one that the settings of a run name and the best of late were made by. What a collected run was stays in
`runs.jsonl` and in the record of its bundle. The ledgers of splits and calibrations, and the account that the store
keeps of bundles, are never collected.

Everything disappears under its name in one rename, bundles first, then runs, then stages: whatever stands at the moment
of a crash can be read, and the next collection goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from engines.store.file_names import CONFIG
from engines.store.holds import is_held
from engines.store.store import Store
from offline.certify.bundle_account import settle_records
from offline.errors import PipelineBusy
from offline.pipeline.runner import CHECKPOINT_DAYS, remove_leftovers
from offline.pipeline.stage import MANIFEST, StageManifest
from offline.publish.late_best import lasting
from offline.publish.settings import GateSettings
from offline.runs.disk_space import allocated, freed, inodes_of
from offline.runs.run_record import RunRecord, read_runs
from stage1.artifacts import fsync_directory
from stage1.errors import ArtifactError


@dataclass(frozen=True)
class Removal:
    """What is to go, or has gone.

    Attributes:
        bundles: ids, oldest first.
        runs: directories of runs.
        stages: directories of finished stages.
        freed: bytes that this gives back.
    """

    bundles: tuple[str, ...] = ()
    runs: tuple[Path, ...] = ()
    stages: tuple[Path, ...] = ()
    freed: int = 0


def superfluous(workspace: Path, store: Store, settings: GateSettings, now: datetime) -> Removal:
    """What nobody needs any more.

    Args:
        workspace: of the runs.
        store: where they published.
        settings: how many runs are kept, and how long the best of late is remembered.
        now: wall-clock time, UTC.

    Raises:
        DatasetError: `runs.jsonl` is damaged.
        StoreError: a file of the store is damaged.
    """
    best = _protected(workspace, store, settings, now)
    going = [row for row in store.superfluous(settings.keep, protected=best) if not is_held(store.root, row.path.name)]
    bundles = {row.manifest.bundle_id: row for row in store.bundles()}
    reached = {
        row.manifest.provenance.run
        for bundle, row in bundles.items()
        if row.current or row.previous or bundle in best or is_held(store.root, bundle)
    }
    records = read_runs(workspace)
    there = sorted(path for path in (workspace / "runs").glob("[!.]*") if path.is_dir())
    # In the order of the last line of each.
    last = {record.run: record for record in reversed(records)}
    rejected = store.rejected().keys()
    worthless = {run: _is_worthless(record, rejected) for run, record in reversed(last.items())}
    runs = _needed(there, worthless, reached, settings.keep, now)
    gone = [path for path in there if path not in runs]
    stages = _unused_stages(workspace, records, runs, settings.keep, now)
    places = [*(row.path for row in going), *gone, *stages]
    return Removal(tuple(row.path.name for row in going), tuple(gone), tuple(stages), freed(places))


def collect(workspace: Path, store: Store, settings: GateSettings, now: datetime) -> Removal:
    """Remove what nobody needs any more; see `superfluous`.

    Returns:
        What has gone.

    Raises:
        PipelineBusy: a run is at work in the workspace.
        DatasetError: a ledger is damaged.
        StoreError: a file of the store is damaged.
        OSError: something cannot be removed, or a record not be written.
    """
    if not workspace.is_dir():
        return Removal()
    try:
        with FileLock(workspace / ".lock", timeout=0):
            remove_leftovers(workspace)
            found = superfluous(workspace, store, settings, now)
            best = _protected(workspace, store, settings, now)
            gone = store.prune(settings.keep, protected=best) if store.root.is_dir() else []
            settle_records(store, now.isoformat(timespec="seconds"))
            for path in (*found.runs, *found.stages):
                remove(path)
    except Timeout as error:
        raise PipelineBusy(f"{workspace}: a run is at work here; nothing was removed") from error
    return Removal(tuple(gone), found.runs, found.stages, found.freed)


def unfinished_bytes(workspace: Path) -> int:
    """What stages take on the disk that no run has come to its end with yet: a night goes on from them."""
    finished = {(stage, ran.key) for record in read_runs(workspace) for stage, ran in record.stages.items()}
    stages = (workspace / "stages").glob("*/[!.]*")
    return allocated(path for path in stages if (path.parent.name, path.name) not in finished)


def remove(directory: Path) -> None:
    """Remove a directory, which is gone under its name at once."""
    removed = directory.with_name(f".removed-{directory.name}")
    if removed.exists():
        shutil.rmtree(removed)
    directory.rename(removed)
    fsync_directory(directory.parent)
    shutil.rmtree(removed)


def _protected(workspace: Path, store: Store, settings: GateSettings, now: datetime) -> set[str]:
    """The best of late, and bundles that the settings of a run name which is there, as a teacher for example."""
    named = _configs((workspace / "runs").glob("[!.]*"))
    there = (row.manifest.bundle_id for row in store.bundles())
    return lasting(store, now - timedelta(days=settings.memory_days)) | {bundle for bundle in there if bundle in named}


def _configs(runs: Iterable[Path]) -> str:
    """The settings of some runs, as text."""
    return "".join((run / CONFIG).read_text(encoding="utf-8") for run in runs if (run / CONFIG).exists())


def _is_worthless(record: RunRecord, rejected: Collection[str]) -> bool:
    """Whether the gate refused what came of a run, or an operator rolled it back."""
    made = record.outcome
    return made is not None and (made.verdict == "REFUSE" or made.bundle in rejected)


def _needed(
    there: Sequence[Path], worthless: Mapping[str, bool], reached: Collection[str], keep: int, now: datetime
) -> set[Path]:
    """The runs that stay.

    Args:
        there: directories of runs.
        worthless: whether the weights of each run are of no more use, the last one to end last.
        reached: runs that bundles need which stay.
        keep: number of runs.
        now: wall-clock time, UTC.
    """
    latest = list(worthless)[::-1]
    # The last one in any case: with another setting it may go on from where it was.
    newest = {*latest[:1], *[run for run in latest if not worthless[run]][:keep]}
    recent = now - timedelta(days=CHECKPOINT_DAYS)
    staying = {
        path
        for path in there
        # One without a line is of an earlier program, or was cut short.
        if path.name in newest or path.name in reached or (path.name not in worthless and _changed(path) >= recent)
    }
    # A config may name another run, as the teacher of its training for example.
    named = _configs(staying)
    return staying | {path for path in there if path.name in named}


def _unused_stages(
    workspace: Path, records: Sequence[RunRecord], runs: Iterable[Path], keep: int, now: datetime
) -> list[Path]:
    """Finished stages that no run needs that stays, and that no unfinished run goes on from."""
    kept = set(runs)
    names = {path.name for path in kept}
    used = {(stage, ran.key) for record in records if record.run in names for stage, ran in record.stages.items()}
    finished = {(stage, ran.key) for record in records for stage, ran in record.stages.items()}
    linked = inodes_of(kept)
    gone, waiting = [], dict[str, list[Path]]()
    for path in sorted((workspace / "stages").glob("*/[!.]*")):
        if (path.parent.name, path.name) in used or inodes_of([path]) & linked:
            continue
        if (path.parent.name, path.name) in finished:
            gone.append(path)
        else:
            waiting.setdefault(path.parent.name, []).append(path)
    recent = now - timedelta(days=CHECKPOINT_DAYS)
    for paths in waiting.values():
        newest = sorted(paths, key=_changed)[-keep:]
        gone += [path for path in paths if path not in newest or _changed(path) < recent]
    return gone


def _changed(path: Path) -> datetime:
    """When a stage was finished, or a directory that does not say changed."""
    try:
        return datetime.fromisoformat(StageManifest.read(path / MANIFEST).finished_at)
    except (ArtifactError, ValueError):
        return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)

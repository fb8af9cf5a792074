"""What `cascade runs` says."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from pydantic import JsonValue

from engines.store.file_names import CONFIG, PAGE
from engines.store.store import Store
from offline.config import RunConfig
from offline.publish.settings import GateSettings
from offline.runs.collection import Removal, collect, superfluous
from offline.runs.disk_space import gigabytes
from offline.runs.run_difference import Pairs, RunFiles, difference, files_of, find_run
from offline.runs.run_record import RunRecord, read_runs
from stage1.certificate.statistics.percent import at_most
from stage1.errors import ArtifactError

HEAD = ("run", "date", "verdict", "bundle", "exits", "certificate", "looks left", "disk", "time", "files")
NO_RUNS = "no run has come to its end in {workspace} since runs are written down; `cascade retrain` makes one"


def list_runs(workspace: Path, store: Path, *, as_json: bool) -> str:
    """A table of all runs, or a JSON list of their records with `collected`.

    Raises:
        DatasetError: `runs.jsonl` is damaged.
    """
    found = [files_of(workspace, Store(store), record) for record in read_runs(workspace)]
    if as_json:
        return json.dumps([_plain(files) for files in found], indent=2)
    if not found:
        return NO_RUNS.format(workspace=workspace)
    return _table([HEAD, *(_row(files) for files in found)])


def show_run(workspace: Path, store: Path, name: str, *, as_json: bool) -> str:
    """One run in words.

    Raises:
        PipelineError: there is no such run.
        DatasetError: `runs.jsonl` is damaged.
    """
    files = find_run(workspace, Store(store), name)
    if as_json:
        return json.dumps(_plain(files), indent=2)
    record = files.record
    lines = [
        f"run {record.run}, {record.started_at} to {record.finished_at}, {_time(record.seconds)}",
        f"{record.rows} labelled images, data {record.data_sha256[:16]}",
    ]
    if record.outcome is None:
        lines.append(f"it was to end with {record.last}")
    else:
        made = record.outcome
        current = ", current from then on" if made.current else ""
        lines += [f"{made.verdict}: bundle {made.bundle}{current}", *(f"- {reason}" for reason in made.reasons)]
        beside = "the first bundle" if made.champion is None else f"the champion was {made.champion}"
        lines += [beside, f"{made.status}: {made.statement}"]
    ran = [
        (stage, "ran" if about.ran else "kept from an earlier run", _time(about.seconds), about.key)
        for stage, about in record.stages.items()
    ]
    lines += [_table([("stage", "", "time", "key"), *ran]), f"on the disk: {gigabytes(record.disk_bytes)}"]
    if files.directory is not None:
        lines.append(f"files: {files.directory}, report: {files.directory / PAGE}")
    elif files.bundle is not None:
        lines.append(f"its files were collected; what is left of its bundle: {files.bundle}")
    else:
        lines.append("its files were collected")
    return "\n".join(lines)


def compare_runs(workspace: Path, store: Path, one: str, other: str, *, as_json: bool) -> str:
    """What two runs differ in.

    Raises:
        PipelineError: there is no such run.
        DatasetError: `runs.jsonl` is damaged.
    """
    both = [find_run(workspace, Store(store), name) for name in (one, other)]
    found = difference(*both)
    if as_json:
        return json.dumps({"runs": [files.record.run for files in both], **asdict(found)}, indent=2)
    lines = [f"from {both[0].record.run} to {both[1].record.run}"]
    for title, pairs in asdict(found).items():
        told = _changes(pairs)
        if title == "settings" and not all(files.settings() for files in both):
            told = ["  the config of one of them was collected"]
        lines += [f"{title}:", *(told or ["  the same"])]
    return "\n".join(lines)


def collect_runs(workspace: Path, store: Path, keep: int | None, now: datetime, *, dry_run: bool, as_json: bool) -> str:
    """Remove what nobody needs any more, or say what that is.

    Raises:
        PipelineBusy: a run is at work in the workspace.
        DatasetError: a ledger is damaged.
        StoreError: a file of the store is damaged.
    """
    settings = kept_by(workspace, keep)
    act = superfluous if dry_run else collect
    found = act(workspace, Store(store), settings, now)
    if as_json:
        return json.dumps({"removed": not dry_run, **_paths(found)}, indent=2)
    paths = [
        *(f"bundle {bundle}" for bundle in found.bundles),
        *(f"run {path.name}" for path in found.runs),
        *(f"stage {path.parent.name} {path.name}" for path in found.stages),
    ]
    if not paths:
        return f"nothing to remove: {settings.keep} runs stay, and what bundles that are in use were made by"
    word = "would go" if dry_run else "removed"
    return "\n".join([*(f"{word}: {path}" for path in paths), f"{gigabytes(found.freed)} in all ({found.freed} bytes)"])


def kept_by(workspace: Path, keep: int | None) -> GateSettings:
    """The settings of a collection: those of the last run, and of the product where that is gone.

    Args:
        workspace: of the runs.
        keep: number of runs to keep instead; None for that of the settings.
    """
    records = read_runs(workspace)
    settings = GateSettings()
    if records:
        try:
            settings = RunConfig.read(workspace / "runs" / records[-1].run / CONFIG).gate
        except ArtifactError:
            settings = GateSettings()
    return settings if keep is None else settings.model_copy(update={"keep": keep})


def _plain(files: RunFiles) -> dict[str, JsonValue]:
    return {**files.record.model_dump(mode="json"), "collected": files.directory is None}


def _paths(found: Removal) -> dict[str, JsonValue]:
    return {
        "bundles": [*found.bundles],
        "runs": [str(path) for path in found.runs],
        "stages": [str(path) for path in found.stages],
        "bytes": found.freed,
    }


def _row(files: RunFiles) -> tuple[str, ...]:
    record = files.record
    left = "collected" if files.directory is None else "kept"
    end = (gigabytes(record.disk_bytes), _time(record.seconds), left)
    made = record.outcome
    if made is None:
        return (record.run, _date(record), f"to {record.last}", "-", "-", "-", "-", *end)
    exits = "-" if made.exit_coverage is None else f"{made.exit_coverage:.1%}"
    certificate = at_most(made.alpha) if made.status == "CERTIFIED" else made.status
    looks = "no end" if made.looks_left is None else str(made.looks_left)
    return (record.run, _date(record), made.verdict, made.bundle, exits, certificate, looks, *end)


def _date(record: RunRecord) -> str:
    return record.finished_at[:16].replace("T", " ")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _changes(pairs: Pairs | Mapping[str, Sequence[JsonValue]]) -> list[str]:
    return [f"  {name}: {json.dumps(before)} -> {json.dumps(after)}" for name, (before, after) in pairs.items()]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )

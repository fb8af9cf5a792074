"""Two runs side by side: what differs in their settings, their data and what they came to."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from engines.store.bundle_record import read_in_record, record_of
from engines.store.file_names import CONFIG, SPLITS
from engines.store.store import Store
from offline.errors import PipelineError
from offline.evaluation.evaluate import Report
from offline.pipeline.run_files import REPORT
from offline.runs.run_record import RunRecord, read_runs
from offline.splits.splits_file import Splits
from stage1.errors import ArtifactError

Values = dict[str, JsonValue]
Pairs = dict[str, tuple[JsonValue, JsonValue]]
LATEST = "last"
ABOUT = ("status", "alpha", "verdict", "looks_left", "exit_coverage", "mcc")


@dataclass(frozen=True)
class RunFiles:
    """A run, and where what is left of it lies.

    Attributes:
        record: its line in `runs.jsonl`.
        directory: its files; None if they were collected.
        bundle: directory of its bundle, or the record of that; None if there is neither.
    """

    record: RunRecord
    directory: Path | None
    bundle: Path | None

    def settings(self) -> Values:
        """The values of its config by dotted path; nothing if the config is gone."""
        for home in (self.directory, self.bundle):
            # What cannot be read says nothing.
            with contextlib.suppress(OSError, ValueError):
                if home is not None:
                    return dict(_leaves(json.loads(read_in_record(home, CONFIG))))
        return {}

    def data(self) -> Values:
        """Its rows, in all and in each set as far as its files tell."""
        told: Values = {"rows": self.record.rows, "data_sha256": self.record.data_sha256[:16]}
        try:
            splits = None if self.directory is None else Splits.read(self.directory / SPLITS)
        except ArtifactError:
            splits = None
        for name, part in {} if splits is None else splits.sets.items():
            told |= {f"{name}.rows": len(part.rows), f"{name}.groups": part.groups, f"{name}.roadwork": part.positives}
        return told

    def metrics(self) -> Values:
        """What it came to, with the numbers of its report as far as its files tell."""
        record = self.record
        told: Values = {"seconds": record.seconds, "disk_bytes": record.disk_bytes}
        if record.outcome is not None:
            made = record.outcome.model_dump(mode="json")
            told |= {name: made[name] for name in ABOUT}
        try:
            report = None if self.directory is None else Report.read(self.directory / REPORT)
        except ArtifactError:
            report = None
        for name, estimate in {} if report is None else report.alone.items():
            told[f"alone.{name}"] = estimate.value
        return told


@dataclass(frozen=True)
class RunDifference:
    """What two runs differ in: values of the first and of the second by name, None where one has none."""

    settings: Pairs
    data: Pairs
    metrics: Pairs


def find_run(workspace: Path, store: Store, name: str) -> RunFiles:
    """A run by its id, the beginning of it, or `last`.

    Raises:
        PipelineError: there is none, or several begin so; names those that there are.
        DatasetError: `runs.jsonl` is damaged.
    """
    latest = {record.run: record for record in read_runs(workspace)}
    matches = list(latest)[-1:] if name == LATEST else [run for run in latest if run.startswith(name)]
    matches = [name] if name in latest else matches
    if len(matches) != 1:
        known = ", ".join(latest) or "none"
        problem = f"{len(matches)} runs begin with" if matches else "no run is called"
        raise PipelineError(f"{workspace}: {problem} {name!r}; runs there: {known}")
    return files_of(workspace, store, latest[matches[0]])


def files_of(workspace: Path, store: Store, record: RunRecord) -> RunFiles:
    """Where what is left of a run lies."""
    home = workspace / "runs" / record.run
    found = None
    if record.outcome is not None:
        whole = store.root / "bundles" / record.outcome.bundle
        found = whole if whole.is_dir() else record_of(store.root, record.outcome.bundle)
    return RunFiles(record, home if home.is_dir() else None, found)


def difference(one: RunFiles, other: RunFiles) -> RunDifference:
    """What two runs differ in."""
    return RunDifference(
        _pairs(one.settings(), other.settings()),
        _pairs(one.data(), other.data()),
        _pairs(one.metrics(), other.metrics()),
    )


def _pairs(one: Mapping[str, JsonValue], other: Mapping[str, JsonValue]) -> Pairs:
    # A whole side that is gone says nothing of what differs.
    if not one or not other:
        return {}
    names = dict.fromkeys([*one, *other])
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _leaves(tree: JsonValue, before: str = "") -> Iterator[tuple[str, JsonValue]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, f"{before}.{name}" if before else name)
    else:
        yield before, tree

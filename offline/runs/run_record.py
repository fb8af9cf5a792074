"""`runs.jsonl` of a workspace: one line for each run that came to its end, which stays when its files are collected."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from offline.data.jsonl import read_records
from offline.evaluation.evaluate import Report
from offline.pipeline.run_files import REPORT
from offline.pipeline.stage import MANIFEST, StageManifest
from offline.publish.gate import Publication
from offline.runs.disk_space import allocated
from stage1.artifacts import append_line
from stage1.certificate.params import ScrcParams
from stage1.errors import ArtifactError

RUNS = "runs.jsonl"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StageRun(_Part):
    """What a run had of one stage.

    Attributes:
        key: its content key, the name of its directory.
        seconds: that it took when it ran.
        ran: it ran in this run; otherwise its result was kept from an earlier one.
    """

    key: str
    seconds: float
    ran: bool


class RunOutcome(_Part):
    """What a run came to.

    Attributes:
        bundle: id of the challenger.
        champion: id of the bundle that was current when it was judged; None if there was none.
        verdict: PROMOTE, KEEP or REFUSE.
        reasons: why it was not promoted.
        current: it is the current bundle now.
        status: CERTIFIED or INFEASIBLE.
        alpha: bound on the risk; what was asked for where nothing was certified.
        statement: the certificate in words, or why there is none.
        looks_left: certificates that these calibration rows can still pay for; None where there is no last one.
        exit_coverage: share of the test rows that exit.
        mcc: Matthews correlation of Stage-1 alone on the test rows.
    """

    bundle: str
    champion: str | None
    verdict: str
    reasons: tuple[str, ...] = ()
    current: bool
    status: str
    alpha: float
    statement: str
    looks_left: int | None
    exit_coverage: float | None
    mcc: float | None


class RunRecord(_Part):
    """One line of `runs.jsonl`.

    Attributes:
        schema_version: version of this record.
        run: id of the run; the same data and config again are the same run.
        data_sha256: hash of the data.
        rows: number of labelled images.
        started_at: UTC, ISO 8601.
        finished_at: UTC, ISO 8601.
        seconds: that it took.
        last: the last stage that was asked for.
        stages: what it had of each stage.
        disk_bytes: what it wrote takes on the disk, with its bundle.
        outcome: what it came to; None if it was to end before a bundle was published.
    """

    schema_version: Literal[1] = 1
    run: str
    data_sha256: str
    rows: int
    started_at: str
    finished_at: str
    seconds: float
    last: str
    stages: dict[str, StageRun]
    disk_bytes: int
    outcome: RunOutcome | None = None


_RECORDS = TypeAdapter(RunRecord)


def read_runs(workspace: Path) -> list[RunRecord]:
    """The runs of a workspace in the order in which they ended; a line that a crash cut short is none.

    Raises:
        DatasetError: a line is something else.
    """
    return read_records(workspace / RUNS, _RECORDS)


def append_run(workspace: Path, record: RunRecord) -> None:
    """Write down a run that has come to its end."""
    append_line(workspace / RUNS, record)


def outcome_of(publication: Publication, params: ScrcParams, run: Path, *, current: bool) -> RunOutcome:
    """What a run came to.

    Args:
        publication: what became of its challenger.
        params: the policy of that.
        run: directory of the run.
        current: whether it is the current bundle.
    """
    try:
        exits = Report.read(run / REPORT).policies[0].exit_coverage.estimate
    except (ArtifactError, IndexError):
        exits = None
    left = params.budget.left
    return RunOutcome(
        bundle=publication.bundle,
        champion=publication.champion,
        verdict=publication.verdict,
        reasons=publication.reasons,
        current=current,
        status=params.status,
        alpha=params.alpha,
        statement=params.statement if params.rule is not None else params.reason,
        # The budget is the one before this certificate, if it was one.
        looks_left=left if left is None or not params.chains else max(0, left - 1),
        exit_coverage=exits,
        mcc=publication.mcc,
    )


def stage_runs(finished: Mapping[str, Path], started: datetime) -> dict[str, StageRun]:
    """What a run had of each stage.

    Args:
        finished: directory of each, by name.
        started: when the run was.
    """
    found = {}
    for name, home in finished.items():
        manifest = StageManifest.read(home / MANIFEST)
        began, ended = (datetime.fromisoformat(at) for at in (manifest.started_at, manifest.finished_at))
        # Stage times are whole seconds.
        ran = began >= started.replace(microsecond=0)
        found[name] = StageRun(key=home.name, seconds=max(0.0, (ended - began).total_seconds()), ran=ran)
    return found


def written_bytes(finished: Mapping[str, Path], stages: Mapping[str, StageRun], places: list[Path]) -> int:
    """What a run wrote, on the disk; a file with several names is counted once, and one of an earlier run not at all.

    Args:
        finished: directory of each stage, by name.
        stages: which of them ran.
        places: other directories that it wrote.
    """
    kept = [home for name, home in finished.items() if not stages[name].ran]
    ran = [home for name, home in finished.items() if stages[name].ran]
    return allocated([*ran, *places], without=kept)

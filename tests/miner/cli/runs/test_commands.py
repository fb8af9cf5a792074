"""`cascade runs` as a person and as a program read it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engines.store.store import Store
from miner.cli.main import app
from miner.cli.runs.text import HEAD
from offline.config import RunConfig
from offline.runs.run_record import RunOutcome, RunRecord, StageRun, append_run
from stage1.settings import override

AT = "2026-03-01T03:30:00+00:00"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """Three runs: a promotion, a refusal, and one that was to end before; the files of the first are there."""
    home = tmp_path / "workspace"
    home.mkdir()
    outcome = RunOutcome(
        bundle="a" * 16,
        champion=None,
        verdict="PROMOTE",
        current=True,
        status="CERTIFIED",
        alpha=0.02,
        statement="At most 2% of the roadwork that exits is missed.",
        looks_left=5,
        exit_coverage=0.812,
        mcc=0.9,
    )
    refused = outcome.model_copy(
        update={"bundle": "b" * 16, "verdict": "REFUSE", "reasons": ("it is bad",), "status": "INFEASIBLE"}
    )
    for number, made in enumerate((outcome, refused, None)):
        run = f"{number}" * 16
        stages = {"splits": StageRun(key="k" * 16, seconds=3.0, ran=number == 0)}
        append_run(
            home,
            RunRecord(
                run=run,
                data_sha256="d" * 64,
                rows=100 + number,
                started_at=AT,
                finished_at=AT,
                seconds=3725.0 if number == 0 else 65.0,
                last="publish" if made else "splits",
                stages=stages,
                disk_bytes=3_400_000_000,
                outcome=made,
            ),
        )
        if number != 1:
            (home / "runs" / run).mkdir(parents=True)
            override(RunConfig(), {"seed": number}).write(home / "runs" / run / "config.json")
    return home


def said(workspace: Path, *words: str) -> str:
    flags = ["--workspace", str(workspace), "--store", str(workspace.parent / "store")]
    result = CliRunner().invoke(app, ["runs", *words, *flags])
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_has_a_line_for_each_run(workspace: Path) -> None:
    head, first, refused, unfinished = said(workspace, "list").splitlines()
    assert re.split(r"\s\s+", head) == [*HEAD]
    told = ["2026-03-01 03:30", "PROMOTE", "a" * 16, "81.2%", "2.0%", "5", "3.4 GB", "1 h 02 min", "kept"]
    assert re.split(r"\s\s+", first)[1:] == told
    assert "REFUSE" in refused
    assert refused.endswith("collected")
    assert "to splits" in unfinished


def test_the_list_of_a_program_has_every_field(workspace: Path) -> None:
    runs = json.loads(said(workspace, "list", "--json"))
    assert [run["collected"] for run in runs] == [False, True, False]
    assert runs[0]["outcome"]["looks_left"] == 5
    assert json.loads(said(workspace, "show", "1", "--json"))["outcome"]["reasons"] == ["it is bad"]


def test_a_run_is_shown_with_its_reasons_and_its_stages(workspace: Path) -> None:
    shown = said(workspace, "show", "1")
    assert "REFUSE: bundle bbbbbbbbbbbbbbbb" in shown
    assert "- it is bad" in shown
    assert "kept from an earlier run" in shown
    assert "its files were collected" in shown
    assert f"files: {workspace}/runs/{'2' * 16}" in said(workspace, "show")


def test_two_runs_are_compared(workspace: Path) -> None:
    told = said(workspace, "diff", "0")
    assert "settings:\n  seed: 0 -> 2\n" in told
    assert "rows: 100 -> 102" in told
    assert "seconds: 3725.0 -> 65.0" in told
    assert json.loads(said(workspace, "diff", "0", "2", "--json"))["settings"] == {"seed": [0, 2]}
    assert "the config of one of them was collected" in said(workspace, "diff", "0", "1")


def test_what_would_go_is_told_and_stays(workspace: Path) -> None:
    for number in range(3, 6):
        home = workspace / "stages" / "splits" / f"{number}"
        home.mkdir(parents=True)
        (home / "weights").write_bytes(b"w" * 10_000)
    store = Store(workspace.parent / "store")
    assert store.bundles() == []
    old = workspace / "runs" / ("0" * 16)
    assert "nothing to remove: 14 runs stay" in said(workspace, "gc")
    for run in ("3", "4"):
        record = RunRecord.model_validate_json((workspace / "runs.jsonl").read_text().splitlines()[2])
        append_run(workspace, record.model_copy(update={"run": run * 16}))
    assert f"would go: run {'0' * 16}" in said(workspace, "gc", "--keep", "2", "--dry-run")
    assert old.exists()
    assert json.loads(said(workspace, "gc", "--keep", "2", "--json"))["runs"] == [
        str(old),
        str(old.with_name("2" * 16)),
    ]
    assert not old.exists()


def test_a_workspace_without_runs_says_so(tmp_path: Path) -> None:
    assert "no run has come to its end" in said(tmp_path / "nothing", "list")
    result = CliRunner().invoke(app, ["runs", "show", "--workspace", str(tmp_path)])
    assert result.exit_code == 1
    assert "no run is called 'last'" in result.output

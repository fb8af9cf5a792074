"""The main job, end to end, as a newcomer runs it, on the fewest scenes it takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engines.store.store import Store
from miner.answering.journal import read_journal
from stage1.certificate.params import ScrcParams

ROADWORK_SMALL = Path(__file__).parents[4] / "shared" / "data" / "roadwork_small"
LIMIT_S = 3600


def demo(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "miner.cli", "demo", "--directory", str(directory), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check(output: str, directory: Path) -> None:
    """What every demo must show, in its scoreboard and in what it leaves behind."""
    assert re.search(r"sent by a bittensor dendrite, 0 failed", output)
    bundles = {row.manifest.bundle_id: row for row in Store(directory / "engines").bundles()}
    records = list(read_journal(directory / "state"))
    generations = [record.generation for record in records]
    assert set(generations) == {1, 2}
    assert {record.bundle for record in records} == set(bundles)
    assert all(0 <= record.answer <= 1 for record in records)
    for row in bundles.values():
        names = {path.name for path in row.path.iterdir()}
        assert {"config.json", "splits.json", "model_best.safetensors", "scrc_params.json"} <= names
        assert {"metrics.csv", "report.html"} <= names


def test_the_demo_ends_with_a_scoreboard(tmp_path: Path) -> None:
    output = demo(tmp_path / "demo", "--quick", "--scenes", "400")
    check(output, tmp_path / "demo")
    # So few scenes cannot certify anything, and the miner says so and defers.
    assert "INFEASIBLE" in output
    assert all(len(record.prediction_set or ()) == 2 for record in read_journal(tmp_path / "demo" / "state"))


@pytest.mark.slow
@pytest.mark.skipif(not ROADWORK_SMALL.is_dir(), reason="the photographs are not on this machine")
def test_on_real_photographs_infeasible_is_said_and_everything_is_answered(tmp_path: Path) -> None:
    output = demo(tmp_path / "demo", "--data", str(ROADWORK_SMALL))
    check(output, tmp_path / "demo")
    assert "INFEASIBLE" in output
    assert "Label at least" in output.replace("\n", " ")


@pytest.mark.slow
def test_on_the_default_scenes_the_policy_is_certified(tmp_path: Path) -> None:
    output = demo(tmp_path / "demo")
    check(output, tmp_path / "demo")
    for row in Store(tmp_path / "demo" / "engines").bundles():
        params = ScrcParams.read(row.path / "scrc_params.json")
        assert (params.status, params.alpha, params.delta, params.unit) == ("CERTIFIED", 0.02, 0.10, "group")
        assert params.exit_coverage is not None
        assert params.stream == "challenges-2026-05"
        assert (params.exit_coverage.estimate or 0) >= 0.45
        assert "baseline" in (row.path / "report.html").read_text()

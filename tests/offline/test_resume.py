"""A retraining that is killed in any stage resumes after the last finished one, and publishes nothing by halves."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from engines.store.store import Store
from offline.data.sources.synthetic_streets import write_scenes
from offline.stages import STAGE_NAMES

SCENES = 160


def command(home: Path) -> list[str]:
    flags = ["--data", str(home / "scenes"), "--workspace", str(home / "workspace"), "--store", str(home / "engines")]
    quick = ["--set", "train_supervised.epochs=1", "--set", "train_conformal_risk.enabled=true"]
    quick += ["--set", "train_conformal_risk.steps=5", "--set", "adapt_domain.enabled=true"]
    quick += ["--set", "adapt_domain.epochs=1", "--set", "model.backbone.layers=2", "--set", "preprocess.size_px=64"]
    quick += ["--set", "gate.least_mcc=-1"]
    return [sys.executable, "-m", "miner.cli", "retrain", "--preset", "tiny", "--progress", "json", *flags, *quick]


def events(child: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        yield json.loads(line)


def kept(stages: Sequence[str]) -> list[str]:
    """Those that are not run again once they are finished.

    `screen` asks each time who is champion now, and `publish` puts the bundle into the store.
    """
    return [name for name in stages if name not in {"screen", "publish"}]


@pytest.mark.parametrize(
    "killed",
    [pytest.param(STAGE_NAMES[::3], id="every third"), pytest.param(STAGE_NAMES, id="every", marks=pytest.mark.slow)],
)
def test_a_run_killed_in_stage_after_stage_is_resumed_to_its_end(tmp_path: Path, killed: Sequence[str]) -> None:
    list(write_scenes(tmp_path / "scenes", scenes=SCENES))
    store = Store(tmp_path / "engines")
    done_before = 0
    for stage in killed:
        with subprocess.Popen(command(tmp_path), stdout=subprocess.PIPE, text=True) as child:
            states = []
            for event in events(child):
                if "stage" in event:
                    states.append((event["stage"], event["state"]))
                if event.get("stage") == stage and event["state"] == "running":
                    child.send_signal(signal.SIGKILL)
                    break
        # The stage that was killed last time runs now; those before it are done.
        assert [name for name, state in states if state == "cached"] == kept(STAGE_NAMES[:done_before])
        done_before = STAGE_NAMES.index(stage)
        for row in store.bundles():
            store.verify(row.manifest.bundle_id)
    done = subprocess.run(command(tmp_path), capture_output=True, text=True, check=True)
    finished = [json.loads(line) for line in done.stdout.splitlines()]
    assert [e["stage"] for e in finished if e.get("state") == "cached"] == kept(STAGE_NAMES[:done_before])
    [row] = store.bundles()
    assert row.current
    assert not list((tmp_path / "workspace" / "stages").glob("*/.partial-*"))
    assert not list((tmp_path / "engines" / "bundles").glob(".incoming-*"))

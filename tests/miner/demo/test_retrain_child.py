"""Nights of the demo end with it."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from miner.demo.retrain_child import RetrainChildren
from miner.errors import StartError
from miner.progress_display import LineDisplay
from offline.data.sources.synthetic_streets import write_scenes

LIMIT_S = 300.0


def test_whoever_ends_the_demo_waits_for_no_training(tmp_path: Path) -> None:
    for _ in write_scenes(tmp_path / "roads", scenes=300, seed=1):
        pass
    begun: list[str] = []

    class Shown(LineDisplay):
        def stage(self, name: str, state: str) -> None:
            begun.append(name)
            super().stage(name, state)

    children, log = RetrainChildren(), tmp_path / "log"
    # Epochs for an hour.
    changes = {"train_supervised.epochs": 1000}
    with ThreadPoolExecutor(1) as beside:
        night = beside.submit(
            children.run, tmp_path / "roads", tmp_path / "w", tmp_path / "s", None, changes, Shown(), log, threads=1
        )
        until = time.monotonic() + LIMIT_S
        while "train_supervised" not in begun and time.monotonic() < until and not night.done():
            time.sleep(0.05)
        with contextlib.suppress(KeyboardInterrupt), children:
            raise KeyboardInterrupt
        with pytest.raises(StartError, match="failed with status"):
            night.result(LIMIT_S)
    assert "train_supervised" in begun

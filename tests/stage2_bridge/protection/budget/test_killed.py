"""A budget whose processes are killed at random moments is not exceeded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.stage2_load.killed import killed
from stage2_bridge.protection.settings import BudgetSettings


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_real_processes_that_are_killed_while_they_spend_never_exceed_it(tmp_path: Path) -> None:
    # An hour goes by in a third of a second.
    settings = BudgetSettings(calls=2000, per="hour", burst=0.1)
    found = killed(tmp_path, settings, kills=25, speed=10_000.0)
    assert found.most <= 2000
    # What is set aside is never less than what was called, and at most one call a life more.
    assert found.calls <= found.set_aside <= found.calls + 25
    assert found.lives > 3
    assert found.calls > 200


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_nor_do_those_whose_calls_wait_together_for_the_thread_that_writes(tmp_path: Path) -> None:
    settings, kills, at_a_time = BudgetSettings(calls=2000, per="hour", burst=0.1), 15, 8
    found = killed(tmp_path, settings, kills=kills, speed=10_000.0, seed=1, at_a_time=at_a_time)
    assert 0 < found.most <= 2000
    assert found.calls <= found.set_aside <= found.calls + kills * at_a_time

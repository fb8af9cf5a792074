"""What a miner needs to start."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from miner.errors import StateInUse
from miner.start_checks import held_state


def test_a_start_waits_for_whoever_only_looks_at_the_state_directory(tmp_path: Path) -> None:
    begun, looked = threading.Event(), threading.Event()

    def look() -> None:
        with held_state(tmp_path):
            begun.set()
            looked.wait()

    doctor = threading.Thread(target=look)
    doctor.start()
    begun.wait()
    with pytest.raises(StateInUse, match="another miner uses this directory"), held_state(tmp_path, wait_s=0):
        pass
    threading.Timer(0.2, looked.set).start()
    with held_state(tmp_path, wait_s=240):
        assert looked.is_set()
    doctor.join()

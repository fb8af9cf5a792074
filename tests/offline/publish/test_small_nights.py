"""Nights on small data end with a bundle that can be loaded, whatever the last bits of its scores are."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.small_nights import night


@pytest.mark.parametrize("moved", [0.0, 2e-6, 5e-4])
def test_no_bundle_refuses_itself(tmp_path: Path, moved: float) -> None:
    """Golden images are rows of val_select, among which the thresholds lie; `benchmarks.small_nights` draws 200."""
    statuses = set()
    for seed in range(12):
        home = tmp_path / str(seed)
        home.mkdir()
        status, verdict = night(seed, moved, home)
        statuses.add(status)
        assert verdict.startswith("PROMOTE"), verdict
    assert "CERTIFIED" in statuses

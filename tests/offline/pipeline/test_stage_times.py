"""Times of stages over the nights: the latest count, and old ones do not pile up."""

from __future__ import annotations

from pathlib import Path

import pytest

from offline.pipeline import stage_times
from offline.pipeline.stage_times import TIMES, StageTime, expected_seconds, note_time, times_in


def test_a_large_file_is_cut_to_its_latest_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_times, "MOST_BYTES", 2000)
    monkeypatch.setattr(stage_times, "KEPT_LINES", 10)
    sizes = []
    for number in range(100):
        note_time(tmp_path, StageTime(stage="export", key=f"{number}", seconds=number, at="2026-01-01T00:00:00+00:00"))
        sizes.append((tmp_path / TIMES).stat().st_size)
    assert max(sizes) <= 2000
    found = times_in(tmp_path)
    assert [time.key for time in found] == [str(number) for number in range(100 - len(found), 100)]
    assert len(found) >= 10
    assert expected_seconds(found, "export") == 97

"""The year in small: nine nights with all that goes wrong in a year, through the product's own stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.year.__main__ import row, summary
from benchmarks.year.nights import Plan, Year
from benchmarks.year.scores import ScoreYear
from engines.store.store import Store
from offline.certify.calibration_ledger import read_certifications
from offline.runs.run_record import read_runs

FEW = Plan(6, range(2, 3), range(9, 10), rollback=2, no_room=3, full_disk=3, crash=4, missing=5, clock=5)


@pytest.mark.slow
def test_a_few_nights_go_on_whatever_befalls_them(tmp_path: Path) -> None:
    year = Year(tmp_path, FEW, weights_bytes=50_000, keep=2)
    lines = list(year.nights())
    assert [line.night for line in lines] == list(range(6))
    assert lines[0].verdict == "PROMOTE"
    assert "DiskFull" in lines[3].what
    assert "No space left" in lines[3].what
    assert "status -9" in lines[4].what
    assert lines[5].what.startswith("clock two days behind; DatasetError")
    # The night that was killed after its look has one, not two.
    certified = read_certifications(year.workspace)
    assert len({entry.key for entry in certified}) == len(certified) == sum(line.looks for line in lines)
    assert [record.run for record in read_runs(year.workspace)] == list(
        dict.fromkeys(record.run for record in read_runs(year.workspace))
    )
    store = Store(tmp_path / "store")
    for listed in store.bundles():
        store.verify(listed.manifest.bundle_id)
    # Two that are kept, the current one and the one before it.
    assert len(list((year.workspace / "runs").iterdir())) <= 4
    assert "6 nights" in summary(lines, 2)
    assert row(lines[3]).startswith("    3  2026-01-04")


def test_folds_of_a_year_on_scores_spend_what_they_may() -> None:
    folds = ScoreYear(3).run()
    assert len(folds) > 3
    assert all(fold.wrong <= fold.certified <= fold.looks <= 6 for fold in folds)

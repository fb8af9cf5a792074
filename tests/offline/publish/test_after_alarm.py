"""Nights after an alarm, each with the product's own stages: which rows certify, and when the next bundle is live."""

from __future__ import annotations

import csv
from datetime import timedelta
from pathlib import Path

import pytest

import benchmarks.year.training
from benchmarks.year.nights import BEGIN, Plan, Watch, Year
from benchmarks.year.training import Tonight
from benchmarks.year.world import World
from engines.store.file_names import PARAMS
from engines.store.records import RevocationEntry
from engines.store.store import Store
from offline.night import NightOutcome
from offline.publish.after_alarm import unanswered_alarm
from stage1.certificate.params import ScrcParams

DAY = timedelta(days=1)
QUIET = Plan(0, range(0), range(0), -1, -1, -1, -1, -1, -1)


def test_a_store_without_bundles_or_with_one_that_cannot_be_read_knows_of_no_alarm(tmp_path: Path) -> None:
    assert unanswered_alarm(Store(tmp_path)) is None


def test_the_bundle_of_the_next_night_is_live_where_enough_rows_came_since(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a fold from before the alarm has more rows and looks left."""
    # The luck of a training is drawn by the key of its stage, and so by the code.
    monkeypatch.setattr(benchmarks.year.training, "LUCK", 0.0)
    year = Year(tmp_path, QUIET)
    world = World(year.data, 0, 420, 330, range(0))

    def night(number: int, rows: int) -> NightOutcome:
        world.each = rows
        world.grow(number)
        with (year.data / "labels.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        with (year.data / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*lines[0], "captured_at"])
            writer.writeheader()
            for line in lines:
                came = BEGIN + int(line["image"][7:10]) * DAY - DAY / 2
                writer.writerow(line | {"captured_at": came.isoformat()})
        return year.run(number, Watch(), Tonight(weights_bytes=1000))

    first = night(0, 420).publication
    assert first is not None
    assert first.verdict == "PROMOTE"
    store, alarm = year.store, BEGIN + DAY / 4
    revoked = ScrcParams.read(store.path(first.bundle) / PARAMS).name
    store.revoke(RevocationEntry(certificate=revoked, bundle=first.bundle, reason="misses", at=alarm))
    assert (found := unanswered_alarm(store)) is not None
    assert found.at == alarm
    enough = night(1, 330).publication
    assert enough is not None
    assert (enough.verdict, enough.champion) == ("PROMOTE", first.bundle), enough.reasons
    pointer = store.current()
    assert pointer is not None
    assert pointer.bundle == enough.bundle
    assert unanswered_alarm(store) is None

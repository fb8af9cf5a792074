"""What stays of a year of nights, and that a crash in the middle of a collection costs nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from zipfile import ZipFile

import pytest
from filelock import FileLock

from engines.errors import UnknownBundle
from engines.store.bundle_record import record_of, records_of
from engines.store.holds import held
from engines.store.records import live_since
from engines.store.store import Store
from offline.certify.calibration_ledger import record_look
from offline.certify.compact_look import LedgerEntry
from offline.errors import PipelineBusy
from offline.publish.late_best import lasting
from offline.publish.settings import GateSettings
from offline.runs.collection import collect, superfluous
from offline.runs.disk_space import allocated
from offline.runs.run_record import RUNS, read_runs
from offline.splits.store_history import ask_store
from tests.offline.runs.conftest import House, day

KEEP = GateSettings(keep=2)


def test_the_newest_runs_stay_and_the_disk_is_flat(house: House) -> None:
    sizes = []
    for number in range(8):
        house.night(number, "KEEP" if number else "PROMOTE")
        collect(house.workspace, house.store, KEEP, day(number))
        sizes.append(allocated([house.workspace]))
    # The first one is current.
    assert house.runs() == ["run00", "run06", "run07"]
    assert house.stages() == ["key00", "key06", "key07"]
    assert len(house.bundles()) == 3
    assert max(sizes[3:]) - min(sizes[3:]) < 8192
    assert [record.run for record in read_runs(house.workspace)] == [f"run{number:02d}" for number in range(8)]


def packed(store: Store) -> set[str]:
    """Bundles whose records are one file each, and nothing beside them."""
    assert {path.suffix for path in (store.root / "records").iterdir()} == {".zip"}
    return {path.stem for path in (store.root / "records").iterdir()}


def test_of_what_was_refused_or_rolled_back_the_record_stays_and_not_the_weights(house: House) -> None:
    first = house.night(0)
    refused = house.night(1, "REFUSE")
    house.store.discard(refused)
    worse = house.night(2)
    house.store.rollback(now=day(3))
    house.night(4)
    house.night(5, "KEEP")
    collect(house.workspace, house.store, GateSettings(keep=9), day(5))
    assert house.runs() == ["run00", "run04", "run05"]
    assert house.stages() == ["key00", "key04", "key05"]
    assert packed(house.store) == {refused, worse}
    assert first in house.bundles()


def test_a_bundle_that_is_served_elsewhere_keeps_its_run(house: House) -> None:
    standby = house.night(0)
    for number in range(1, 5):
        house.night(number, exits=0.9)
    with held(house.store.root, standby):
        assert standby not in superfluous(house.workspace, house.store, KEEP, day(4)).bundles
        collect(house.workspace, house.store, KEEP, day(4))
        assert standby in house.bundles()
        assert "run00" in house.runs()
    assert collect(house.workspace, house.store, KEEP, day(4)).bundles == (standby,)
    assert "run00" not in house.runs()


def test_a_bundle_that_the_settings_name_as_a_teacher_stays(house: House) -> None:
    first = house.night(0)
    config = json.dumps({"learn": {"teacher": str(house.store.path(first))}})
    for number in range(1, 6):
        house.night(number, config=config)
        collect(house.workspace, house.store, KEEP, day(number + 100))
    assert first in house.bundles()
    # Two are kept, and it.
    assert len(house.bundles()) == 3
    for number in range(6, 9):
        house.night(number)
        collect(house.workspace, house.store, KEEP, day(number + 100))
    assert first not in house.bundles()


def test_the_best_of_late_stays_and_so_does_what_will_be_best_when_it_is_forgotten(house: House) -> None:
    exits = [0.9, 0.3, 0.8, 0.5, 0.7, 0.1, 0.2]
    made = [house.night(10 * number, exits=share) for number, share in enumerate(exits)]
    # The last two are current and the one before it.
    assert lasting(house.store, day(0)) == {made[number] for number in (0, 2, 4, 5, 6)}
    collect(house.workspace, house.store, KEEP, day(61))
    assert house.bundles() == [made[number] for number in (0, 2, 4, 5, 6)]
    # The one with 0.9 was live until day 10; the window of 90 days has left it by then.
    collect(house.workspace, house.store, KEEP, day(101))
    assert house.bundles() == [made[number] for number in (2, 4, 5, 6)]


@pytest.mark.parametrize("seed", range(4))
def test_on_no_later_day_a_better_one_is_missing(house: House, seed: int) -> None:
    """The best that is kept is the best of all that were live of late, on every day to come."""
    shares = [((number * 37 + seed * 11) % 29) / 29 for number in range(9)]
    made = [house.night(number, exits=share) for number, share in enumerate(shares)]
    kept = lasting(house.store, day(0))
    for since in range(9):
        late = live_since(house.store.root, day(since))
        best = max(shares[number] for number in range(9) if made[number] in late)
        assert max(shares[number] for number in range(9) if made[number] in late & kept) == best


def test_what_an_unfinished_night_goes_on_from_survives(house: House) -> None:
    for number in range(4):
        house.night(number, "KEEP" if number else "PROMOTE")
    unfinished = house.stage(5)
    collect(house.workspace, house.store, KEEP, day(6))
    assert unfinished.exists()
    # Nobody has gone on from it for two weeks.
    collect(house.workspace, house.store, KEEP, day(20))
    assert not unfinished.exists()


def test_a_run_that_another_one_names_stays(house: House) -> None:
    house.night(0)
    house.night(1, "KEEP")
    for number in (2, 3):
        house.night(number, "KEEP", config=f'{{"teacher": "{house.workspace}/runs/run01"}}')
    collect(house.workspace, house.store, KEEP, day(3))
    assert house.runs() == ["run00", "run01", "run02", "run03"]


def test_runs_of_an_earlier_program_stay_for_two_weeks_with_all_that_they_link_to(house: House) -> None:
    house.night(0, noted=False)
    for number in (1, 2, 3):
        house.night(number)
    now = house.workspace.stat().st_mtime
    young = day(0).fromtimestamp(now, tz=day(0).tzinfo)
    collect(house.workspace, house.store, KEEP, young)
    assert ("run00" in house.runs(), "key00" in house.stages()) == (True, True)
    collect(house.workspace, house.store, KEEP, young + timedelta(days=15))
    assert "run00" not in house.runs()


def test_the_account_of_certificates_is_never_collected(house: House) -> None:
    look = LedgerEntry(key="k", rows=("a", "b"), groups=("a", "b"), level=0.01, at=day(0).isoformat())
    record_look(house.workspace, look, house.store.root)
    gone = house.night(0, trained_on=["a.jpg", "b.jpg"])
    for number in range(1, 6):
        house.night(number, exits=0.9, trained_on=["a.jpg"])
    before = {path: path.read_bytes() for path in (house.workspace / "calibration_ledger.jsonl",)}
    collect(house.workspace, house.store, KEEP, day(5))
    assert gone not in house.bundles()
    assert {path: path.read_bytes() for path in before} == before
    assert (house.store.root / "looks.jsonl").exists()
    # What the bundle did with rows is told by the store, though its record does not list them any more.
    told = {row.row: row.home.split for _, row in ask_store(house.store).rows}
    assert told == {"a.jpg": "train", "b.jpg": "train"}
    assert records_of(house.store.root) == []
    record = record_of(house.store.root, gone)
    assert record is not None
    with ZipFile(record) as file:
        assert {"manifest.json", "config.json", "scrc_params.json"} <= set(file.namelist())
        assert not {"splits.json", "calibration.json", "model.onnx"} & set(file.namelist())
    with pytest.raises(UnknownBundle, match=f"the weights of {gone} were removed; its record is in .*{gone}.zip"):
        house.store.path(gone)


def test_nothing_is_removed_while_a_run_is_at_work(house: House) -> None:
    house.night(0)
    with FileLock(house.workspace / ".lock"), pytest.raises(PipelineBusy, match="nothing was removed"):
        collect(house.workspace, house.store, KEEP, day(0))


def test_what_is_foretold_is_what_goes_and_what_it_gives_back(house: House) -> None:
    for number in range(5):
        house.night(number, exits=number / 5)
    places = [house.workspace, house.store.root]
    foretold, before = superfluous(house.workspace, house.store, KEEP, day(5)), allocated(places)
    assert len(foretold.bundles) == len(foretold.runs) == len(foretold.stages) == 2
    gone = collect(house.workspace, house.store, KEEP, day(5))
    assert gone == foretold
    # The records of the bundles are what is left.
    assert 0 <= foretold.freed - (before - allocated(places)) < 200_000


def test_a_kill_between_any_two_changes_leaves_everything_readable(house: House, tmp_path: Path) -> None:
    made = [house.night(number, exits=number / 5, trained_on=[f"{number}.jpg"]) for number in range(5)]
    prepared = tmp_path / "prepared"
    prepared.mkdir()
    shutil.copytree(house.workspace, prepared / "workspace")
    shutil.copytree(house.store.root, prepared / "store")
    child = Path(__file__).with_name("collection_child.py")
    homes = tmp_path / "homes"
    subprocess.run([sys.executable, str(child), str(prepared), str(homes), "2", "5"], check=True, timeout=300)
    steps = sorted(homes.iterdir(), key=lambda path: int(path.name))
    assert len(steps) > 20
    for home in steps:
        workspace, store = home / "workspace", Store(home / "store")
        # Before the next collection: what is there is whole, and what must stay is there.
        bundles = [row.manifest.bundle_id for row in store.bundles()]
        # The current one and the one before it may be rolled back, and then the third is the best.
        assert set(made[2:]) <= set(bundles) <= set(made)
        for bundle in bundles:
            store.verify(bundle)
        told = {row.row for _, row in ask_store(store).rows}
        assert told == {f"{number}.jpg" for number in range(5)}
        for run in (workspace / "runs").glob("[!.]*"):
            assert (run / "weights").stat().st_size == 40_000
        for number in (2, 3, 4):
            assert (workspace / "stages" / "train" / f"key0{number}" / "weights").exists()
        assert len(read_runs(workspace)) == 5
        # And the next one comes to the same end.
        collect(workspace, store, KEEP, day(5))
        assert [row.manifest.bundle_id for row in store.bundles()] == made[2:]
        assert sorted(path.name for path in (workspace / "runs").iterdir()) == ["run02", "run03", "run04"]
        assert packed(store) == set(made[:2])
        assert (workspace / RUNS).exists()

"""Rules over one reading of a miner: what holds, and what a person is told of it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engines.machine.nvml.health import GpuHealth, GpuState, Xid, faults
from miner.admin.live_miner import LiveMiner
from miner.alerts.miner_reader import Disks, MinerReader, RecentAnswers
from miner.alerts.rules import Reading, conditions, undecided
from miner.alerts.settings import AlertSettings
from miner.answering.record import RequestRecord

WELL = Reading(since_answer_s=5.0, answered=200, p99_s=0.1, degraded=0.0, deferred=0.3, registered={"5Ours": True})
HOUR, GIB = 3600.0, 2**30
NOW = datetime(2026, 3, 1, tzinfo=UTC)
[LOST] = faults(GpuHealth(gpus=(GpuState(index=0, lost="GPU is lost"),)))
[UNNAMED] = faults(GpuHealth(xids_of_unknown=(Xid(number=79, age_s=1.0),)))
[SILENT] = faults(GpuHealth(silent_s=40.0))


def names(reading: Reading, **settings: Any) -> list[str]:
    return [one.name for one in conditions(reading, AlertSettings(**settings))]


def test_of_a_miner_that_is_well_nothing_is_told() -> None:
    assert names(WELL, deferral_band=(0.1, 0.5)) == []


@pytest.mark.parametrize(
    ("change", "name", "told"),
    [
        ({"since_answer_s": 7 * HOUR}, "silent", "7.0 hours"),
        ({"answered": 0, "refused": 40}, "all_refused", "All 40 requests"),
        ({"p99_s": 7.5}, "slow", "longer than 7.5 s"),
        ({"degraded": 0.2}, "degraded", "20% of the answers"),
        ({"deferred": 0.9}, "deferral_rate", "90% of the images"),
        ({"deferred": 0.0}, "deferral_rate", "10% to 50% are usual"),
        ({"chain_fresh": False, "chain_age_s": 3000.0}, "chain_stale", "50 minutes ago"),
        ({"chain_fresh": False, "chain_age_s": 70.0}, "chain_stale", "last read a minute ago"),
        ({"registered": {"5Ours": False}}, "deregistered 5Ours", "5Ours is not on the subnet"),
        ({"subnet": ("emission_burned",)}, "emission_burned", "mining earns nothing"),
        ({"subnet": ("no_validator_admitted",)}, "no_validator_admitted", "access.min_stake"),
        ({"night_due": True, "since_night_s": 40 * HOUR}, "night_overdue", "40 hours"),
        ({"free_bytes": {"/data": GIB // 2}}, "disk /data", "0.5 GiB"),
        ({"free_bytes": {"/data": None}}, "disk /data", "cannot be read"),
        ({"hangs_s": {"store": 0.0, "journal": 75.0}}, "disk_hangs journal", "has not answered for a minute"),
        ({"servers": {"a": "open", "b": "open"}}, "stage2_away", "(a, b)"),
        ({"gpu_faults": (LOST,)}, "gpu_fault 0 lost", "GPU 0 does not answer: GPU is lost. Look at dmesg"),
        ({"gpu_faults": (UNNAMED,)}, "gpu_fault unknown xid", "Xid 79 of a GPU that it does not name. Look it up"),
        ({"gpu_faults": (SILENT,)}, "gpu_fault driver_silent", "no answer for 40 s"),
        ({"affordable": 0.3}, "budget_low", "pays for 30% of the images"),
    ],
)
def test_each_fault_is_one_condition_with_what_to_know(change: dict[str, Any], name: str, told: str) -> None:
    (found,) = conditions(replace(WELL, **change), AlertSettings(deferral_band=(0.1, 0.5)))
    assert found.name == name
    assert told in found.text
    assert found.text.endswith(".")


@pytest.mark.parametrize(
    "change",
    [
        {"p99_s": None},
        {"degraded": None},
        {"deferred": None},
        {"answered": 0, "refused": 19},
        {"answered": 1, "refused": 400},
        {"night_due": False, "since_night_s": 400 * HOUR},
        {"night_due": True, "since_night_s": 35 * HOUR},
        {"servers": {"a": "open", "b": "closed"}},
        {"affordable": 0.6},
        {"free_bytes": {"/data": 3 * GIB}},
    ],
)
def test_what_is_not_known_or_not_enough_is_no_condition(change: dict[str, Any]) -> None:
    assert names(replace(WELL, **change), deferral_band=(0.1, 0.5)) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"heard": False}, "silent"),
        ({"answered": 0}, "all_refused"),
        ({"answered": 49, "p99_s": None}, "slow"),
        ({"answered": 49, "degraded": None}, "degraded"),
        ({"deferred": None}, "deferral_rate"),
        ({"night_due": True, "nights_known": False}, "night_overdue"),
        ({"free_bytes": {"the store or the state": None}}, "disk /data"),
        ({"servers": {"a": "closed"}, "handed_on": False}, "stage2_away"),
        ({"gpus_known": False}, "gpu_fault 0 lost"),
    ],
)
def test_what_nothing_is_known_of_is_not_over(change: dict[str, Any], name: str) -> None:
    settings = AlertSettings(deferral_band=(0.1, 0.5))
    unknown = replace(WELL, **change)
    assert name not in [one.name for one in conditions(unknown, settings)]
    assert undecided(name, unknown, settings)
    known = replace(WELL, servers={"a": "closed"}, free_bytes={"/data": 3 * GIB}, night_due=True)
    assert not undecided(name, known, settings)


def test_a_miner_that_was_started_anew_knows_nothing_of_its_answers() -> None:
    answers = RecentAnswers(lambda: 0.0)
    assert not answers.heard
    answers.on_answer(cast("RequestRecord", SimpleNamespace(result="abandoned")))
    assert not answers.heard
    answers.on_answer(
        cast("RequestRecord", SimpleNamespace(result="answered", action=None, total_ms=1.0, failure=None))
    )
    assert answers.heard


def test_a_directory_that_is_gone_is_no_disk_with_room(tmp_path: Path) -> None:
    # Or the alarm of a disk that was full would be told to be over when that disk is gone.
    reader = MinerReader(
        cast("LiveMiner", SimpleNamespace(now=lambda: NOW)),
        RecentAnswers(lambda: 0.0),
        night_due=lambda: False,
        directories=[tmp_path, tmp_path / "x"],
    )
    free = reader.free_bytes()
    assert free[str(tmp_path / "x")] is None
    assert (free[str(tmp_path)] or 0) > 0


def test_a_disk_that_hangs_is_told_and_holds_nobody_up() -> None:
    hangs = threading.Event()
    asked: list[int] = []

    def read() -> dict[str, int | None]:
        asked.append(1)
        if len(asked) == 2:
            hangs.wait(60)
        return {"/store": 7}

    async def scenario() -> None:
        disks = Disks(read, wait_s=60)
        assert await disks.free_bytes() == {"/store": 7}
        disks._wait_s = 0.05
        assert [await disks.free_bytes() for _ in range(3)] == [{"/store": None}] * 3
        assert len(asked) == 2
        hangs.set()
        async with asyncio.timeout(60):
            while await disks.free_bytes() != {"/store": 7}:
                pass

    asyncio.run(scenario())


def test_two_directories_of_one_disk_are_one_condition(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    reader = MinerReader(
        cast("LiveMiner", SimpleNamespace(now=lambda: NOW)),
        RecentAnswers(lambda: 0.0),
        night_due=lambda: False,
        directories=[tmp_path, tmp_path / "a"],
    )
    assert list(reader.free_bytes()) == [f"{tmp_path} and {tmp_path / 'a'}"]


def of_nights(nightly: dict[str, Any], after: timedelta) -> float:
    """What is read of the last success, so long after the miner started."""
    now = [NOW]
    stats = SimpleNamespace(servers=(), budget=None, outcomes={})
    miner = SimpleNamespace(
        now=lambda: now[0],
        chain=lambda: {"age_s": 0.0, "fresh": True, "registered": {}},
        nightly=lambda: nightly,
        tallies={"refused": SimpleNamespace(counts={})},
        bridge=SimpleNamespace(stats=stats),
        gpus=lambda: None,
        disks=dict,
    )
    reader = MinerReader(cast("LiveMiner", miner), RecentAnswers(lambda: 0.0), night_due=lambda: True, directories=[])
    now[0] += after
    return reader.read(0.0, {}).since_night_s


def test_a_miner_whose_nights_never_succeeded_is_told_of_as_well() -> None:
    day = timedelta(days=1)
    succeeded, began = (NOW - 3 * day).isoformat(), (NOW - 5 * day).isoformat()
    assert of_nights({"last_success": succeeded, "first_at": began}, day) == 4 * 24 * HOUR
    # A restart does not begin it anew: the first night that is known does.
    assert of_nights({"last_success": None, "first_at": began}, day) == 6 * 24 * HOUR
    assert of_nights({"last_success": None, "first_at": None}, 2 * day) == 2 * 24 * HOUR

"""Nights in a process of their own: they are its as long as it runs, and a stop ends what it has started."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from miner.night_service import job_of, run_nights, with_nights
from miner.nights.job import NightlyJob
from miner.nights.record import Nights
from miner.nights.settings import RetrainSettings
from miner.settings import load_settings
from stage1.errors import SettingsError

NIGHT_IS_FAR = "0 0 1 1 *"


def job(tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch, **settings: object) -> NightlyJob:
    """Nights whose child runs `script` instead of the pipeline."""
    made = NightlyJob(
        RetrainSettings.model_validate({"data": tmp_path, "enabled": True, "cron": NIGHT_IS_FAR, **settings}),
        store=tmp_path / "store",
        state=tmp_path / "state",
        now=lambda: datetime.now(UTC),
        retry_s=(),
    )
    monkeypatch.setattr(made, "command", lambda: [sys.executable, "-c", script])
    return made


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("script", "status"), [("pass", 0), ("raise SystemExit(3)", 3), ("raise SystemExit(75)", 75)])
def test_one_night_ends_with_its_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, status: int
) -> None:
    if status:
        # The check of the settings runs the same script.
        monkeypatch.setattr(NightlyJob, "check", lambda _: asyncio.sleep(0))
    assert asyncio.run(run_nights(job(tmp_path, script, monkeypatch), once=True)) == status


def test_a_miner_beside_it_leaves_the_nights_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        service = job(tmp_path, "pass", monkeypatch)
        running = asyncio.create_task(run_nights(service))
        await until(lambda: service._scheduler.running)
        miners = job(tmp_path, "pass", monkeypatch)
        assert await miners.run() is None
        # Its own nights are not in its way.
        assert await service.run() == 0
        # And what came of them is known to the miner.
        await miners.look(60)
        assert miners.status()["outcome"] == "done"
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0
        assert await miners.run() == 0

    asyncio.run(scenario())


def test_it_waits_for_a_night_of_a_miner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.nights.job.OWNER_S", 0.05)

    async def scenario() -> None:
        miners = job(tmp_path, "import time; time.sleep(1)", monkeypatch)
        night = asyncio.create_task(miners.run())
        await until(miners._running.locked)
        service = job(tmp_path, "pass", monkeypatch)
        running = asyncio.create_task(run_nights(service))
        await until(lambda: service._scheduler.running)
        assert night.done()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 0

    asyncio.run(scenario())


def test_a_stop_ends_the_night_that_is_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("miner.nights.night_process.GRACE_S", 0.5)
    monkeypatch.setattr(NightlyJob, "check", lambda _: asyncio.sleep(0))

    async def scenario() -> None:
        service = job(tmp_path, "import time; time.sleep(600)", monkeypatch)
        running = asyncio.create_task(run_nights(service, once=True))
        await until(lambda: any(night.under_way for night in Nights(tmp_path / "state").all()))
        os.kill(os.getpid(), signal.SIGTERM)
        assert await running == 75
        [night] = Nights(tmp_path / "state").all()
        assert (night.outcome, night.under_way) == ("stopped", False)

    asyncio.run(scenario())


def test_it_needs_data_and_no_key(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"needs retrain\.data"):
        with_nights(load_settings(None, {"state": tmp_path}))
    changes = {"state": tmp_path, "retrain.data": tmp_path, "wallet.path": tmp_path / "none"}
    settings = load_settings(None, changes)
    assert with_nights(settings).retrain.enabled
    assert "model_card.submitted_by" not in " ".join(job_of(settings).command())

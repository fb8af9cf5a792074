"""The harvest turned on and off while the miner runs."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from miner.harvest.harvest import DIRECTORY
from miner.harvest.settings import HarvestSettings
from miner.harvest.store import read_index
from miner.harvest.switch import HarvestSwitch
from stage1.errors import ArtifactError
from tests.miner.harvest.test_harvest import seen

ON, OFF = HarvestSettings(enabled=True, random_share=1.0), HarvestSettings()


def test_it_is_turned_on_and_off_and_keeps_what_came_in_between(tmp_path: Path) -> None:
    async def story() -> None:
        switch = HarvestSwitch(OFF, tmp_path, None)
        switch.on_image(seen(1))
        await switch.change(ON)
        switch.on_image(seen(2))
        await switch.change(ON.model_copy(update={"random_share": 0.0}))
        switch.on_image(seen(3))
        await switch.change(OFF)
        switch.on_image(seen(4))
        assert switch.status() == {}

    asyncio.run(story())
    assert [one.request_id for one in read_index(tmp_path / DIRECTORY).values()] == ["r2"]


def test_a_key_that_cannot_be_read_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / DIRECTORY).mkdir()
    (tmp_path / DIRECTORY / "secret.key").write_bytes(b"short")

    async def story() -> None:
        switch = HarvestSwitch(OFF, tmp_path, None)
        with pytest.raises(ArtifactError, match="a key has 32"):
            await switch.change(ON)
        assert switch.status() == {}
        (tmp_path / DIRECTORY / "secret.key").unlink()
        await switch.change(ON)
        assert switch.status()["pictures"] == 0
        switch.close()

    asyncio.run(story())


def test_a_miner_that_is_stopped_during_a_change_does_not_wait_for_a_disk_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, hangs, closed = threading.Event(), threading.Event(), list[str]()

    def close(_: HarvestSwitch) -> None:
        hangs.set()
        goes_on.wait(60)
        closed.append("the one before")

    async def story() -> None:
        switch = HarvestSwitch(OFF, tmp_path, None)
        change = asyncio.create_task(switch.change(ON))
        while not hangs.is_set():
            await asyncio.sleep(0.001)
        change.cancel()
        await asyncio.gather(change, return_exceptions=True)

    monkeypatch.setattr(HarvestSwitch, "close", close)
    asyncio.run(story())
    assert closed == []
    goes_on.set()

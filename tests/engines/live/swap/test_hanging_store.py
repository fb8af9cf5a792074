"""A store whose disk hangs: what is live is told and rolled back, and the follower goes on when the disk does."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from engines.errors import PointerNotMoved
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import SwapSettings
from engines.live.swap import follower as module
from engines.live.swap.follower import StoreFollower
from engines.store.store import Pointer, Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMIT_S = 60.0


class HangingStore(Store):
    """A store whose pointer cannot be read while `hang` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.hangs, self.goes_on, self.asked = False, threading.Event(), 0

    def current(self) -> Pointer | None:
        self.asked += 1
        if self.hangs:
            assert threading.current_thread() is not threading.main_thread()
            self.goes_on.wait(LIMIT_S)
        return super().current()


@pytest.fixture
def hanging(store: Store) -> Iterator[HangingStore]:
    made = HangingStore(store.root)
    yield made
    made.goes_on.set()


def test_a_rollback_does_not_wait_for_the_disk_and_the_pointer_follows_when_it_can(
    hanging: HangingStore, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOVE_S", 0.2)

    async def scenario() -> None:
        first = publish("a")
        follower = StoreFollower(
            hanging, settings=SwapSettings(trial=False, standby=True), options=EngineOptions(threads=1, most=2)
        )
        await follower.start()
        second = publish("b")
        assert await follower.refresh()
        assert follower.live_id == second
        hanging.hangs = True
        # As every two seconds; none of them is begun again while it waits.
        asked = hanging.asked
        for _ in range(5):
            follower._look()
            await asyncio.sleep(0.01)
        assert hanging.asked <= asked + 1
        assert follower.status().bundle == second
        with pytest.raises(PointerNotMoved, match="could not follow"):
            await follower.rollback(now=NOW)
        assert follower.live_id == first
        hanging.hangs = False
        hanging.goes_on.set()
        # What the pointer names was given up, and does not come back by itself.
        assert not await follower.refresh()
        assert follower.live_id == first
        await follower.close()

    async def bounded() -> None:
        async with asyncio.timeout(LIMIT_S):
            await scenario()

    asyncio.run(bounded())

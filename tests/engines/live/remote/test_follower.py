"""The same follower, slot and batcher, with engines that servers compute."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from engines.errors import BundleRefused
from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.remote.opener import RemoteEngines
from engines.live.remote.settings import RemoteSettings
from engines.live.settings import BatchSettings, SwapSettings
from engines.live.states import State
from engines.live.swap import follower as module
from engines.live.swap.follower import StoreFollower
from engines.remote.bundle_version import version_of
from engines.store.store import Store
from tests.support.scenario import run
from tests.support.stage1_servers import Server, running

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MOST, DEADLINE_S = 2, 60.0
Publish = Callable[..., str]


@asynccontextmanager
async def following(
    store: Store, urls: list[str], *, standby: bool = False, repository: Path | None = None
) -> AsyncIterator[StoreFollower]:
    settings = RemoteSettings(last_resort="never", look_s=60.0, repository=repository, keep=2)
    opener = RemoteEngines(urls, settings, most=MOST)
    follower = StoreFollower(
        store,
        settings=SwapSettings(trial=False, standby=standby),
        options=EngineOptions(most=MOST, memory=lambda: None, opens=opener.open, elsewhere=True),
    )
    try:
        await follower.start()
        yield follower
    finally:
        await follower.close()
        await asyncio.to_thread(opener.close)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_swap_goes_from_version_to_version_and_loses_no_request(store: Store, publish: Publish) -> None:
    made = [publish("a"), publish("b", golden_shift=0.0)]
    store.activate(made[0], now=NOW)
    server = Server()
    for one in made:
        server.hold(store.path(one))

    async def scenario() -> None:
        with running(server) as [up]:
            async with following(store, [up.url]) as follower:
                batcher = Batcher(BatchSettings(max_batch=MOST, workers=2))
                futures, image = [], np.zeros((3, 32, 32), np.uint8)

                def ask() -> None:
                    lease = follower.slot.lease()
                    futures.append(
                        (lease.bundle.bundle_id, batcher.submit(lease, image, deadline=time.monotonic() + 30))
                    )

                for step in range(30):
                    ask()
                    if step == 10:
                        store.activate(made[1], now=NOW)
                        assert await follower.refresh()
                    await asyncio.sleep(0)
                outputs = [await asyncio.wrap_future(future) for _, future in futures]
                assert len(outputs) == 30
                assert {bundle for bundle, _ in futures} == set(made)
                await until(lambda: follower.status().history[0].state is State.UNLOADED)
                status = follower.status()
                assert (status.bundle, status.vouched_by) == (made[1], "golden images")
                assert status.engine == "1 of 1 servers cpu fp32"
                assert [(one["url"], one["state"]) for one in status.servers] == [(up.url, "up")]
                assert status.own_batches == 0
                await asyncio.to_thread(batcher.close)

    run(scenario)


def test_a_bundle_that_a_server_computes_otherwise_leaves_the_live_one_in_place(store: Store, publish: Publish) -> None:
    first = publish("a")
    server = Server()
    server.hold(store.path(first))

    async def scenario() -> None:
        with running(server) as [up]:
            async with following(store, [up.url]) as follower:
                second = publish("b", golden_shift=0.5)
                server.hold(store.path(second))
                before = list(server.calls)
                assert not await follower.refresh()
                status = follower.status()
                assert (status.bundle, status.refusals) == (first, 1)
                assert "no server computes this bundle as its engine does" in status.history[-1].reason
                # Golden images are all that it was asked.
                assert {version for version, _ in server.calls[len(before) :]} == {version_of(second)}

    run(scenario)


def test_a_bundle_that_no_server_has_is_looked_at_again(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.2)
    first = publish("a")
    server = Server()
    server.hold(store.path(first))

    async def scenario() -> None:
        with running(server) as [up]:
            async with following(store, [up.url]) as follower:
                second = publish("b")
                assert not await follower.refresh()
                assert (follower.live_id, follower.refusals) == (first, 0)
                server.hold(store.path(second))
                await until(lambda: follower.live_id == second)

    run(scenario)


def test_a_server_is_told_to_load_before_the_pointer_moves_and_to_unload_after(
    store: Store, publish: Publish, tmp_path: Path
) -> None:
    made = [publish("a")]
    repository = tmp_path / "models"

    def load(server: Server) -> None:
        there = {path.name for path in (repository / "stage1").glob("[0-9]*")}
        for version in set(server.engines) - there:
            del server.engines[version]
        for version in there - set(server.engines):
            [bundle] = [one for one in made if version_of(one) == version]
            server.hold(store.path(bundle))

    server = Server(on_load=load)

    async def scenario() -> None:
        with running(server) as [up]:
            async with following(store, [up.url], repository=repository) as follower:
                for note in "bcd":
                    made.append(publish(note))
                    assert await follower.refresh()
                await until(lambda: set(server.engines) == {version_of(one) for one in made[-2:]})

    run(scenario)


def test_a_start_without_servers_that_may_answer_says_why(store: Store, publish: Publish) -> None:
    publish("a")

    async def scenario() -> None:
        with pytest.raises(BundleRefused, match="no server may answer"):
            async with following(store, ["http://127.0.0.1:1"]):
                pass

    run(scenario)

"""The watch of a miner that starts, is alarmed, goes back to the bundle before, and stops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from engines.live.load.background_loader import EngineOptions
from engines.live.load.load_bundle import LiveBundle
from engines.live.settings import SwapSettings
from engines.live.swap.follower import StoreFollower
from engines.machine.background_tasks import BackgroundTasks
from engines.machine.clock import utc_now
from engines.machine.tally import Tally
from engines.store.records import RevocationEntry
from engines.store.store import Store
from miner.events.event import Event
from miner.live_risk import watch_tasks
from miner.live_risk.auditor import roll_back
from miner.live_risk.live_risk import LiveRisk
from miner.live_risk.settings import LiveRiskSettings
from miner.live_risk.watch_tasks import Revocations, open_live_risk, start_audits
from stage1.errors import ArtifactError
from stage2_bridge.bridge import Bridge
from tests.miner.live_risk.test_live_risk import ALL, misses

LIMIT_S = 240.0


class Heard:
    """A sink of events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def event(self, event: Event) -> None:
        self.events.append(event)


def live_bundle(follower: StoreFollower) -> LiveBundle:
    with follower.slot.lease() as lease:
        return lease.bundle


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def opened(state: Path, heard: Heard, stack: AsyncExitStack) -> LiveRisk:
    settings = ALL.model_copy(update={"reaction": "rollback"})
    risk = open_live_risk(settings, state, heard, stack)
    assert risk is not None
    return risk


async def following(store: Store, stack: AsyncExitStack) -> StoreFollower:
    follower = StoreFollower(store, settings=SwapSettings(trial=False), options=EngineOptions(threads=1, most=1))
    stack.push_async_callback(follower.close)
    await follower.start()
    return follower


def test_an_alarm_goes_back_to_the_bundle_before_and_no_further(
    tmp_path: Path, store: Store, publish: Callable[..., str]
) -> None:
    async def story() -> None:
        heard = Heard()
        first = publish("first")
        async with AsyncExitStack() as stack:
            follower = await following(store, stack)
            second = publish("second", shift=0.25, golden_shift=0.25)
            await follower.refresh()
            risk = opened(tmp_path, heard, stack)
            start_audits(risk, store, follower, Bridge(None, max_in_flight=4, clock=time.monotonic), stack)
            alarmed = live_bundle(follower)
            await risk.in_thread(lambda: risk.live(alarmed))
            assert (alarmed.bundle_id, risk.policy(alarmed).rule) == (second, alarmed.params.rule)
            await asyncio.to_thread(misses, risk, alarmed, 20)
            await until(lambda: follower.live_id == first)
            await until(lambda: risk.status().get("bundle") == first)
            back = live_bundle(follower)
            assert risk.policy(back).rule == back.params.rule
            rule = risk.policy(alarmed).rule
            assert rule is not None
            assert rule.t0 < -1e30, "a request that still holds the other one is not let off"
            # The bundle to go back to now is the one with the alarm.
            await asyncio.to_thread(misses, risk, back, 20, 100)
            await until(lambda: risk.status()["level"] == "alarm")
            await asyncio.sleep(0.1)
            assert follower.live_id == first
            await until(lambda: len(store.revoked()) == 2)
        told = {name: entry.bundle for name, entry in store.revoked().items()}
        assert told == {alarmed.params.name: second, back.params.name: first}
        assert {event.kind for event in heard.events} == {"live_risk"}
        assert "alarm" in {event.level for event in heard.events}

    asyncio.run(story())


def test_a_store_that_hangs_when_it_is_told_of_an_alarm_keeps_no_bundle_live(
    tmp_path: Path, store: Store, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, told = threading.Event(), list[str]()

    def revoke(entry: RevocationEntry) -> None:
        goes_on.wait(LIMIT_S)
        told.append(entry.certificate)

    async def story() -> None:
        first = publish("first")
        async with AsyncExitStack() as stack:
            follower = await following(store, stack)
            publish("second", shift=0.25, golden_shift=0.25)
            await follower.refresh()
            monkeypatch.setattr(store, "revoke", revoke)
            monkeypatch.setattr(watch_tasks, "TOLD_S", 0.01)
            monkeypatch.setattr(watch_tasks, "REVOCATION_S", 0.01)
            risk = opened(tmp_path, Heard(), stack)
            start_audits(risk, store, follower, Bridge(None, max_in_flight=4, clock=time.monotonic), stack)
            alarmed = live_bundle(follower)
            await asyncio.to_thread(risk.live, alarmed)
            await asyncio.to_thread(misses, risk, alarmed, 20)
            await until(lambda: follower.live_id == first)
            assert told == []
            # It is told all the same, though another bundle is live.
            goes_on.set()
            await until(lambda: told == [alarmed.params.name])

    try:
        asyncio.run(story())
    finally:
        goes_on.set()


def test_an_alarm_that_comes_while_another_one_is_told_is_told_before_that_ends() -> None:
    goes_on, told = threading.Event(), list[str]()

    def revoke(entry: RevocationEntry) -> None:
        goes_on.wait(LIMIT_S)
        told.append(entry.certificate)

    async def story() -> None:
        store, risk = SimpleNamespace(revoke=revoke), SimpleNamespace(lost=Tally("lost"))
        revocations = Revocations(cast("Store", store), cast("LiveRisk", risk), BackgroundTasks())
        revocations.note(RevocationEntry(certificate="one", bundle="b", reason="r", at=utc_now()))
        telling = revocations.begin()
        await asyncio.sleep(0)
        revocations.note(RevocationEntry(certificate="two", bundle="b", reason="r", at=utc_now()))
        assert revocations.begin() is telling
        goes_on.set()
        await telling
        assert told == ["one", "two"]

    asyncio.run(story())


def test_the_watch_may_be_off(tmp_path: Path) -> None:
    assert open_live_risk(LiveRiskSettings(enabled=False), tmp_path, Heard(), AsyncExitStack()) is None
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_whose_audits_cannot_be_read_is_none_to_go_back_to(
    tmp_path: Path, store: Store, publish: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        publish("first")
        async with AsyncExitStack() as stack:
            follower = await following(store, stack)
            second = publish("second", shift=0.25, golden_shift=0.25)
            await follower.refresh()
            risk = opened(tmp_path, Heard(), stack)

            def unread(_: object) -> bool:
                raise ArtifactError("audits.jsonl, line 1: not an event of an audit")

            monkeypatch.setattr(risk, "healthy", unread)
            assert not await roll_back(risk, follower, utc_now)
            assert follower.live_id == second

    asyncio.run(story())


def test_a_start_tells_the_store_of_an_alarm_that_it_does_not_know(
    tmp_path: Path, store: Store, publish: Callable[..., str]
) -> None:
    """The process before was killed in between, or could not write."""

    async def one_start(raise_alarm: bool) -> None:
        async with AsyncExitStack() as stack:
            follower = await following(store, stack)
            risk = open_live_risk(ALL, tmp_path, Heard(), stack)
            assert risk is not None
            live = live_bundle(follower)
            risk.live(live)
            if raise_alarm:
                await asyncio.to_thread(misses, risk, live, 20)
                assert risk.status()["alarms"]
                return
            start_audits(risk, store, follower, Bridge(None, max_in_flight=4, clock=time.monotonic), stack)
            await until(lambda: live.params.name in store.revoked())
            assert store.revoked()[live.params.name].bundle == live.bundle_id

    publish("only")
    asyncio.run(one_start(raise_alarm=True))
    assert store.revoked() == {}
    asyncio.run(one_start(raise_alarm=False))

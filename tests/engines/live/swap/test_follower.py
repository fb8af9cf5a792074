from __future__ import annotations

import asyncio
import errno
import itertools
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from watchfiles._rust_notify import WatchfilesRustInternalError

from engines.engine import Engine
from engines.errors import BundleRefused, InferenceError, NotThereYet, PointerNotMoved, StoreError, UnknownBundle
from engines.live.load.background_loader import EngineOptions
from engines.live.load.load_bundle import LiveBundle, load_checked
from engines.live.settings import SwapSettings
from engines.live.states import State
from engines.live.swap.follower import StoreFollower
from engines.store.file_names import ENGINE
from engines.store.store import Store

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DEADLINE_S = 60.0
Publish = Callable[..., str]


@asynccontextmanager
async def following(store: Store, *, trial: bool = False, standby: bool = False) -> AsyncIterator[StoreFollower]:
    follower = StoreFollower(
        store, settings=SwapSettings(trial=trial, standby=standby), options=EngineOptions(threads=1, most=2)
    )
    await follower.start()
    try:
        yield follower
    finally:
        await follower.close()


def live(follower: StoreFollower) -> str:
    with follower.slot.lease() as lease:
        return lease.bundle.bundle_id


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(3 * DEADLINE_S):
            await scenario()

    asyncio.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


class TestStart:
    def test_loads_what_is_current(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            bundle = publish("a")
            async with following(store) as follower:
                assert live(follower) == bundle
                assert (follower.slot.generation, follower.swaps, follower.refusals) == (1, 0, 0)

        run(scenario)

    def test_of_an_empty_store_says_what_to_do(self, store: Store) -> None:
        async def scenario() -> None:
            with pytest.raises(UnknownBundle, match="no bundle is current; run `cascade retrain` first"):
                await StoreFollower(store).start()

        run(scenario)

    def test_of_a_damaged_bundle_is_refused(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            (store.path(publish("a")) / ENGINE).write_bytes(b"")
            with pytest.raises(BundleRefused, match=r"model\.onnx is changed"):
                await StoreFollower(store).start()

        run(scenario)

    def test_of_a_bundle_that_is_refused_serves_the_one_before_it(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first, second = publish("a"), publish("b")
            (store.path(second) / ENGINE).write_bytes(b"")
            with capture_logs() as lines:
                async with following(store) as follower:
                    assert live(follower) == first
                    # It is not tried again at each look.
                    assert await follower.refresh() is False
                    assert (follower.refusals, follower.swaps) == (1, 0)
                    third = publish("c")
                    assert await follower.refresh() is True
                    assert live(follower) == third
            [refused] = [line for line in lines if line["event"] == "bundle_refused"]
            assert refused["live"] == first
            assert "model.onnx is changed" in refused["reason"]

        run(scenario)

    def test_never_takes_one_that_was_rejected_in_the_place_of_one_that_is_refused(
        self, store: Store, publish: Publish
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            publish("b")
            store.rollback(now=NOW, why="it is worse")
            (store.path(first) / ENGINE).write_bytes(b"")
            with pytest.raises(BundleRefused, match=r"model\.onnx is changed"):
                await StoreFollower(store).start()

        run(scenario)

    def test_where_both_are_refused_says_why_the_current_one_is(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first, second = publish("a"), publish("b")
            (store.path(first) / ENGINE).write_bytes(b"")
            (store.path(second) / ENGINE).write_bytes(b"")
            with pytest.raises(BundleRefused, match=rf"{second}.*model\.onnx is changed"):
                await StoreFollower(store).start()

        run(scenario)


class TestRefresh:
    def test_swaps_when_the_pointer_has_moved_and_only_then(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                assert await follower.refresh() is False
                second = publish("b")
                assert await follower.refresh() is True
                assert await follower.refresh() is False
                assert (live(follower), follower.slot.generation, follower.swaps) == (second, 2, 1)

        run(scenario)

    def test_a_lease_survives_the_swap(self, store: Store, publish: Publish, plain_images: Callable[..., Any]) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                with follower.slot.lease() as lease:
                    publish("b")
                    await follower.refresh()
                    assert lease.bundle.bundle_id == first
                    lease.bundle.engine.infer(plain_images([[1, 2, 3]]))
                await until(lambda: follower.status().history[0].state is State.UNLOADED)
                with pytest.raises(InferenceError, match="closed"):
                    lease.bundle.engine.infer(plain_images([[1, 2, 3]]))

        run(scenario)

    def test_what_it_serves_and_what_stands_by_is_removed_by_nobody(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            made = [publish("a")]
            async with following(store, standby=True) as follower:
                made.append(publish("b"))
                await follower.refresh()
                # The pointer has left both, and the follower has not looked yet.
                made += [publish(name) for name in "cd"]
                assert follower.status().standby == made[0]
                assert store.prune(1) == []
                await follower.refresh()
                await until(lambda: store.prune(1) == made[:1])
                assert store.prune(1) == []
            await until(lambda: store.prune(1) == made[1:2])

        run(scenario)

    def test_a_bundle_that_is_refused_is_held_no_longer(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                bad = publish("b", golden_shift=1.0)
                assert await follower.refresh() is False
                publish("c")
                publish("d")
                assert bad in store.prune(1)

        run(scenario)

    def test_at_the_same_time_loads_once(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                publish("b")
                swapped = await asyncio.gather(*(follower.refresh() for _ in range(10)))
                assert sum(swapped) == follower.swaps == 1

        run(scenario)

    def test_goes_back_with_a_rollback(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                publish("b")
                await follower.refresh()
                store.rollback(now=NOW)
                assert await follower.refresh() is True
                assert (live(follower), follower.slot.generation) == (first, 3)

        run(scenario)

    @pytest.mark.parametrize(
        "bad",
        [
            {"shift": float("nan")},
            {"only_batch": 1},
            {"golden_shift": 1.0},
            {"size_px": 48},
            {"size_px": "S"},
            {"outputs": ("a", "b")},
        ],
        ids=lambda bad: next(iter(bad)),
    )
    def test_a_bad_bundle_is_refused_and_the_old_one_stays(
        self, store: Store, publish: Publish, bad: dict[str, Any]
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                publish("bad", **bad)
                with capture_logs() as logs:
                    assert await follower.refresh() is False
                assert [entry["event"] for entry in logs] == ["bundle_refused"]
                assert logs[0]["reason"]
                assert (live(follower), follower.slot.generation) == (first, 1)
                third = publish("c")
                assert await follower.refresh() is True
                assert (live(follower), follower.refusals, follower.swaps) == (third, 1, 1)

        run(scenario)

    def test_a_store_that_cannot_be_read_is_told_once_however_often_it_is_looked_at(
        self, store: Store, publish: Publish
    ) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                store.pointer_path.write_text("no pointer")
                with capture_logs() as logs:
                    assert [await follower.refresh() for _ in range(30)] == [False] * 30
                assert [(entry["event"], entry["times"]) for entry in logs] == [("bundle_refused", 1)]

        run(scenario)

    def test_a_bundle_is_not_refused_because_there_is_no_file_descriptor_left(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_descriptor(*_: object, **__: object) -> None:
            try:
                raise OSError(errno.EMFILE, "Too many open files")
            except OSError as error:
                raise StoreError("the bundle cannot be read") from error

        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                second = publish("b")
                with monkeypatch.context() as patch:
                    patch.setattr("engines.live.load.background_loader.load_checked", no_descriptor)
                    with capture_logs() as logs:
                        assert await follower.refresh() is False
                assert [entry["event"] for entry in logs] == ["bundle_postponed"]
                assert follower.refusals == 0
                assert logs[0]["example"]["live"] == live(follower)
                # Nobody has to move the pointer, or to ask for it.
                assert await follower.refresh() is True
                assert live(follower) == second

        run(scenario)

    def test_what_is_put_off_for_a_reason_with_another_number_each_time_is_told_once(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One line a look would fill a disk, and one count for each number the memory."""
        sent = itertools.count(1)

        def not_whole(*_: object, **__: object) -> None:
            raise NotThereYet(f"a server answers {next(sent)} MiB of it")

        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                publish("b")
                monkeypatch.setattr("engines.live.load.background_loader.load_checked", not_whole)
                with capture_logs() as logs:
                    assert [await follower.refresh() for _ in range(30)] == [False] * 30
                assert [(entry["reason"], entry["times"]) for entry in logs] == [(logs[0]["reason"], 1)]
                assert "a server answers 1 MiB of it" in logs[0]["example"]["message"]

        run(scenario)

    def test_a_bundle_that_was_refused_is_not_tried_again_until_the_pointer_moves(
        self, store: Store, publish: Publish
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                bad = publish("bad", golden_shift=1.0)
                for _ in range(3):
                    assert await follower.refresh() is False
                assert follower.refusals == 1
                store.activate(first, now=NOW)
                assert await follower.refresh() is False
                store.activate(bad, now=NOW)
                assert await follower.refresh() is False
                assert follower.refusals == 2

        run(scenario)

    @pytest.mark.parametrize("content", ["{", "", '{"bundle": "0000000000000000", "sequence": 9, "changed_at": ""}'])
    def test_a_pointer_that_leads_nowhere_leaves_the_old_bundle(
        self, store: Store, publish: Publish, content: str
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                store.pointer_path.write_text(content)
                assert await follower.refresh() is False
                assert live(follower) == first

        run(scenario)


class TestWatch:
    def test_a_moved_pointer_swaps_without_a_restart_past_a_bad_bundle(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                stop = asyncio.Event()
                watching = asyncio.create_task(follower.run(stop))
                second = publish("b")
                await until(lambda: follower.slot.generation == 2)
                assert live(follower) == second
                publish("bad", golden_shift=1.0)
                await until(lambda: follower.refusals == 1)
                assert live(follower) == second
                third = publish("c")
                await until(lambda: follower.slot.generation == 3)
                assert live(follower) == third
                store.activate(first, now=NOW)
                await until(lambda: follower.slot.generation == 4)
                stop.set()
                await watching

        run(scenario)

    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            # As on a host that has no instance of inotify left.
            WatchfilesRustInternalError("Error creating recommended watcher: Too many open files (os error 24)"),
        ],
        ids=["watches", "instances"],
    )
    def test_without_inotify_the_pointer_is_looked_at_all_the_same(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                stop = asyncio.Event()
                watching = asyncio.create_task(follower.run(stop))
                second = publish("b")
                await until(lambda: follower.live_id == second)
                third = publish("c")
                await until(lambda: follower.live_id == third)
                stop.set()
                await watching

        monkeypatch.setattr("watchfiles.main.RustNotify", broken)
        monkeypatch.setattr("engines.live.swap.pointer_watch.POLL_MS", 20)
        run(scenario)

    def test_stops_when_asked(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                stop = asyncio.Event()
                stop.set()
                await follower.run(stop)

        run(scenario)


class TestStandby:
    def test_a_rollback_loads_nothing_and_the_pointer_follows(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=True) as follower:
                second = publish("b")
                await follower.refresh()
                # A file that would refuse it: what stands by is loaded already.
                assert follower.status().standby == first
                assert await follower.rollback(now=NOW) == 3
                assert live(follower) == first
                pointer = store.current()
                assert pointer is not None
                assert pointer.bundle == first
                assert await follower.refresh() is False
                assert follower.status().standby == second
                assert await follower.rollback(now=NOW) == 4
                assert live(follower) == second

        run(scenario)

    def test_a_pointer_that_goes_back_takes_what_stands_by(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=True) as follower:
                publish("b")
                await follower.refresh()
                store.rollback(now=NOW)
                (store.path(first) / ENGINE).write_bytes(b"")
                assert await follower.refresh() is True
                assert (live(follower), follower.slot.generation, follower.refusals) == (first, 3, 0)

        run(scenario)

    def test_a_third_bundle_takes_its_place(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store, standby=True) as follower:
                second = publish("b")
                await follower.refresh()
                publish("c")
                await follower.refresh()
                assert follower.status().standby == second
                states = [State.UNLOADED, State.STANDBY, State.ACTIVE]
                await until(lambda: [life.state for life in follower.status().history] == states)

        run(scenario)

    def test_a_refused_bundle_does_not_cost_it(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=True, trial=True) as follower:
                publish("b")
                await follower.refresh()
                publish("bad", golden_shift=1.0)
                assert await follower.refresh() is False
                assert follower.status().standby == first

        run(scenario)

    def test_without_one_there_is_nothing_to_roll_back_to(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=False) as follower:
                publish("b")
                await follower.refresh()
                with pytest.raises(UnknownBundle, match="no bundle stands by"):
                    await follower.rollback(now=NOW)
                assert live(follower) != first

        run(scenario)

    @pytest.mark.parametrize(("error", "told"), [(RuntimeError("a fault"), 1), (OSError("full"), 0)])
    def test_a_fault_that_nobody_expected_of_the_store_is_in_the_log_once(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, error: Exception, told: int
    ) -> None:
        def broken(*_: object, **__: object) -> None:
            raise error

        async def scenario() -> None:
            publish("a")
            async with following(store, standby=True) as follower:
                publish("b")
                await follower.refresh()
                with monkeypatch.context() as patch, capture_logs() as logs:
                    patch.setattr(store, "activate", broken)
                    with pytest.raises(PointerNotMoved):
                        await follower.rollback(now=NOW)
                assert [entry["event"] for entry in logs if "exc_info" in entry] == ["pointer_not_moved"] * told

        run(scenario)

    def test_a_pointer_that_cannot_follow_does_not_undo_it(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            first, second = publish("a"), ""
            async with following(store, standby=True) as follower:
                second = publish("b")
                await follower.refresh()
                with monkeypatch.context() as patch:
                    patch.setattr(store, "activate", full_disk)
                    with pytest.raises(PointerNotMoved, match=f"rolled back to {first}, but .* No space left"):
                        await follower.rollback(now=NOW)
                for _ in range(3):
                    assert await follower.refresh() is False
                assert live(follower) == first
                pointer = store.current()
                assert pointer is not None
                assert pointer.bundle == second
                third = publish("c")
                assert await follower.refresh() is True
                assert live(follower) == third

        run(scenario)

    def test_a_pointer_that_cannot_be_read_does_not_bring_back_what_was_rolled_back(
        self, store: Store, publish: Publish
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=True) as follower:
                second = publish("b")
                await follower.refresh()
                whole = store.pointer_path.read_bytes()
                store.pointer_path.write_bytes(whole[: len(whole) // 2])
                assert await follower.give_up(second, "it is bad", now=NOW) is True
                assert live(follower) == first
                store.pointer_path.write_bytes(whole)
                assert await follower.refresh() is False
                assert live(follower) == first
                third = publish("c")
                assert await follower.refresh() is True
                assert live(follower) == third

        run(scenario)

    def test_of_two_that_wait_one_changes_nothing(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=True) as follower:
                publish("b")
                await follower.refresh()
                async with follower._one_at_a_time:
                    waiting = [asyncio.create_task(follower.rollback(now=NOW)) for _ in range(2)]
                    await asyncio.sleep(0.05)
                done = await asyncio.gather(*waiting, return_exceptions=True)
                assert done[0] == 3
                assert isinstance(done[1], StoreError)
                assert "another bundle went live meanwhile" in str(done[1])
                assert live(follower) == first

        run(scenario)

    def test_one_that_comes_too_late_does_not_stop_what_is_loaded(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store, standby=True) as follower:
                publish("b")
                await follower.refresh()
                third = publish("c")
                made = list[LiveBundle]()
                go = held_up_load(monkeypatch, made)
                loading = asyncio.create_task(follower.refresh())
                await until(lambda: bool(made))
                # What stood by has made room.
                with pytest.raises(UnknownBundle, match="no bundle stands by"):
                    await follower.rollback(now=NOW)
                go.set()
                assert await loading is True
                assert live(follower) == third

        run(scenario)

    def test_it_does_not_wait_for_the_trial_of_something_else(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, standby=True, trial=True) as follower:
                publish("b")
                await follower.refresh()
                publish("c")
                never = tmp_path / "never"
                never.write_text("#!/bin/sh\nexec sleep 600\n")
                never.chmod(0o755)
                monkeypatch.setattr(sys, "executable", str(never))
                trying = asyncio.create_task(follower.refresh())
                await until(lambda: follower.status().history[-1].state is State.TRYING)
                await asyncio.sleep(0.2)
                await follower.rollback(now=NOW)
                assert await trying is False
                assert live(follower) == first

        run(scenario)


class TestTheEnd:
    """Closing a follower cancels what its loader has not begun; nobody who waits for it is cancelled with it."""

    @pytest.mark.parametrize("pool", ["_checker", "_thread"])
    def test_while_a_load_waits_for_its_thread_ends_the_load(self, store: Store, publish: Publish, pool: str) -> None:
        async def scenario() -> None:
            first = publish("a")
            go = threading.Event()
            async with following(store) as follower:
                publish("b")
                getattr(follower._loader, pool).submit(go.wait, 60)
                loading = asyncio.create_task(follower.refresh())
                await until(lambda: follower.status().history[-1].bundle != first)
                await asyncio.sleep(0.2)
                closing = asyncio.create_task(follower.close())
                await asyncio.sleep(0.05)
                go.set()
                await closing
                assert await loading is False

        run(scenario)

    def test_while_an_engine_is_compared_closes_the_engine(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            publish("a")
            engines, go = list[Engine](), threading.Event()

            def held_up(engine: Engine, *_: object, **__: object) -> None:
                engines.append(engine)
                assert go.wait(60)

            async with following(store) as follower:
                publish("b")
                monkeypatch.setattr("engines.live.load.load_bundle.check_parity", held_up)
                loading = asyncio.create_task(follower.refresh())
                await until(lambda: bool(engines))
                loading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await loading
                assert follower.status().history[-1].state is State.REFUSED
                go.set()
            with pytest.raises(InferenceError):
                engines[0].infer(np.zeros((1, 3, 32, 32), np.uint8))

        with capture_logs() as logs:
            run(scenario)
        assert "unwanted_load_failed" not in [entry["event"] for entry in logs]

    def test_before_a_load_is_handed_to_its_thread_ends_the_load(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                publish("b")
                async with follower._one_at_a_time:
                    loading = asyncio.create_task(follower.refresh())
                    await asyncio.sleep(0.05)
                    await follower._loader.close()
                assert await loading is False

        run(scenario)

    def test_while_the_one_before_is_loaded_at_the_start_leaves_nothing_loaded(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            publish("a")
            publish("bad", golden_shift=1.0)
            follower = StoreFollower(store, options=EngineOptions(threads=1, most=2))
            made = list[LiveBundle]()
            go = held_up_load(monkeypatch, made)
            starting = asyncio.create_task(follower.start())
            await until(lambda: bool(made))
            closing = asyncio.create_task(follower.close())
            await asyncio.sleep(0.05)
            go.set()
            await closing
            with pytest.raises(BundleRefused):
                await starting
            assert follower.slot.generation == 0
            with pytest.raises(InferenceError):
                made[0].engine.infer(np.zeros((1, 3, 32, 32), np.uint8))

        run(scenario)

    def test_who_is_cancelled_while_waiting_is_cancelled(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            publish("a")
            go = threading.Event()
            async with following(store) as follower:
                publish("b")
                follower._loader._checker.submit(go.wait, 60)
                loading = asyncio.create_task(follower.refresh())
                await asyncio.sleep(0.1)
                loading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await loading
                go.set()

        run(scenario)


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def held_up_load(monkeypatch: pytest.MonkeyPatch, made: list[LiveBundle]) -> threading.Event:
    """Loading ends only when the event is set; what was loaded is noted."""
    go = threading.Event()

    def load(*given: Any, **more: Any) -> LiveBundle:
        loaded = load_checked(*given, **more)
        made.append(loaded)
        assert go.wait(60)
        return loaded

    monkeypatch.setattr("engines.live.load.background_loader.load_checked", load)
    return go


def closed(bundle: LiveBundle) -> bool:
    try:
        bundle.engine.infer(np.zeros((1, 3, 32, 32), np.uint8))
    except InferenceError:
        return True
    return False


class TestUnexpected:
    def test_whatever_a_check_raises_is_a_refusal_and_the_live_bundle_stays(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store) as follower:
                publish("b")
                with monkeypatch.context() as patch:
                    patch.setattr("engines.live.load.background_loader.check_bundle", lambda *_: int("no number"))
                    assert await follower.refresh() is False
                status = follower.status()
                assert (live(follower), status.refusals) == (first, 1)
                assert "invalid literal" in status.history[-1].reason

        run(scenario)

    def test_a_refused_bundle_is_tried_again_when_asked_to(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            publish("a")
            async with following(store) as follower:
                second = publish("b")
                with monkeypatch.context() as patch:
                    patch.setattr("engines.live.load.background_loader.check_bundle", full_disk)
                    assert await follower.refresh() is False
                assert await follower.refresh() is False
                assert await follower.reload() is True
                assert live(follower) == second

        run(scenario)

    def test_who_runs_at_a_lower_priority_already_can_start(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def forbidden(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        async def scenario() -> None:
            first = publish("a")
            monkeypatch.setattr("os.setpriority", forbidden)
            async with following(store) as follower:
                assert live(follower) == first

        run(scenario)


class TestUnwanted:
    """What was loaded for somebody who is gone is closed."""

    def test_when_the_task_is_cancelled(self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> None:
            first, made = publish("a"), list[LiveBundle]()
            async with following(store) as follower:
                publish("b")
                go = held_up_load(monkeypatch, made)
                loading = asyncio.create_task(follower.refresh())
                await until(lambda: bool(made))
                loading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await loading
                go.set()
                await until(lambda: closed(made[0]))
                assert live(follower) == first

        run(scenario)

    def test_when_everything_is_closed(self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
        async def scenario() -> None:
            made = list[LiveBundle]()
            publish("a")
            async with following(store) as follower:
                publish("b")
                go = held_up_load(monkeypatch, made)
                loading = asyncio.create_task(follower.refresh())
                await until(lambda: bool(made))
                closing = asyncio.create_task(follower.close())
                await asyncio.sleep(0.05)
                go.set()
                assert await loading is False
                await closing
                assert closed(made[0])
                assert follower.slot.generation == 0

        run(scenario)


class TestTrial:
    def test_a_bundle_that_crashes_the_loader_is_refused_and_this_process_lives(
        self, store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def scenario() -> None:
            first = publish("a")
            async with following(store, trial=True) as follower:
                publish("b")
                with monkeypatch.context() as patch:
                    patch.setattr(sys, "executable", "/bin/false")
                    assert await follower.refresh() is False
                status = follower.status()
                assert (status.bundle, status.refusals) == (first, 1)
                assert "on trial ended with status 1" in status.history[-1].reason
                third = publish("c")
                assert await follower.refresh() is True
                assert live(follower) == third
                assert "trying" in follower.status().history[-1].seconds()

        run(scenario)


class TestMemory:
    def test_a_bundle_that_does_not_fit_is_refused_with_the_numbers(self, store: Store, publish: Publish) -> None:
        async def scenario() -> None:
            left = [10**12]
            first = publish("a")
            follower = StoreFollower(
                store,
                settings=SwapSettings(trial=False),
                options=EngineOptions(threads=1, most=1, memory=lambda: left[0]),
            )
            await follower.start()
            left[0] = 2**20
            publish("b")
            with capture_logs() as logs:
                assert await follower.refresh() is False
            assert "and 1 MiB are left" in logs[0]["reason"]
            assert live(follower) == first
            await follower.close()

        run(scenario)


class TestDrain:
    def test_a_replaced_bundle_that_is_used_for_long_is_reported_and_stays(
        self, store: Store, publish: Publish, plain_images: Callable[..., Any]
    ) -> None:
        async def scenario() -> None:
            publish("a")
            settings = SwapSettings(trial=False, standby=False, drain_s=0.05)
            follower = StoreFollower(store, settings=settings, options=EngineOptions(threads=1, most=1))
            await follower.start()
            with follower.slot.lease() as lease:
                publish("b")
                with capture_logs() as logs:
                    await follower.refresh()
                    await until(lambda: any(entry["event"] == "drain_overdue" for entry in logs))
                assert next(entry for entry in logs if entry["event"] == "drain_overdue")["leases"] == {1: 1}
                lease.bundle.engine.infer(plain_images([[1, 2, 3]]))
            assert follower.slot.leases == {2: 0}
            await follower.close()

        run(scenario)


class TestClose:
    def test_ends_with_the_last_lease(self, store: Store, publish: Publish, plain_images: Callable[..., Any]) -> None:
        async def scenario() -> None:
            publish("a")
            follower = StoreFollower(store, options=EngineOptions(threads=1))
            await follower.start()
            with follower.slot.lease() as lease:
                await follower.close()
                lease.bundle.engine.infer(plain_images([[1, 2, 3]]))
            with pytest.raises(InferenceError, match="closed"):
                lease.bundle.engine.infer(plain_images([[1, 2, 3]]))

        run(scenario)

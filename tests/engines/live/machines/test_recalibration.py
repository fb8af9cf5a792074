"""Work of minutes beside the live bundle: calibrating anew and compiling, and what ends them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from engines.errors import UnknownBundle
from engines.live.load.load_bundle import check_bundle
from engines.live.load.local_compile import LocalCompiler
from engines.live.states import State
from engines.machine.child import Child
from engines.machine.gpu import Gpu
from engines.spec import EngineSpec
from engines.store.store import Store
from tests.support.scenario import run
from tests.support.tensorrt import ELSEWHERE, FP32, GPU

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[..., str]


class TestRecalibration:
    """Where the calibration rows are here, a bundle of its own is made for this machine."""

    def test_comes_before_the_golden_images(
        self, publish: Publish, publish_plain: Publish, following: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            asked: list[tuple[str, EngineSpec]] = []
            made: list[str] = []
            ready = asyncio.Event()

            async def recalibrate(bundle: str, spec: EngineSpec) -> bool:
                asked.append((bundle, spec))
                await ready.wait()
                made.append(publish("here"))
                return True

            old = publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                for _ in range(3):
                    assert await follower.refresh() is False
                assert follower.serving == (old, "onnxruntime", 1)
                assert follower.status().vouched_by == "certificate"
                assert "calibrated anew for this machine" in follower.status().history[-1].reason
                ready.set()
                while follower.serving[0] == old:
                    await asyncio.sleep(0.01)
                assert follower.serving == (made[0], "tensorrt_rtx", 2)
                assert follower.status().vouched_by == "certificate"
                assert asked == [(foreign, FP32)]
                assert len(machine.deserialized) == 1

        run(scenario)

    @pytest.mark.parametrize("failure", [False, OSError("no such program")], ids=["no rows", "no program"])
    def test_where_it_is_not_possible_the_golden_images_decide(
        self, publish: Publish, publish_plain: Publish, following: Any, failure: bool | OSError
    ) -> None:
        async def scenario() -> None:
            asked: list[str] = []

            async def recalibrate(bundle: str, _spec: EngineSpec) -> bool:
                asked.append(bundle)
                if isinstance(failure, OSError):
                    raise failure
                return failure

            publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                assert await follower.refresh() is False
                while follower.serving[0] != foreign:
                    await asyncio.sleep(0.01)
                assert follower.serving == (foreign, "tensorrt_rtx", 2)
                assert asked == [foreign]

        run(scenario)

    def test_is_waited_for_also_by_who_asks_again(
        self, publish: Publish, publish_plain: Publish, following: Any, held: Callable[[], list[str]]
    ) -> None:
        async def scenario() -> None:
            ready = asyncio.Event()
            asked: list[str] = []

            async def recalibrate(bundle: str, _spec: EngineSpec) -> bool:
                asked.append(bundle)
                await ready.wait()
                return False

            old = publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                for _ in range(3):
                    assert await follower.reload() is False
                assert (follower.live_id, follower.status().recalibrating) == (old, (foreign,))
                assert (follower.refusals, asked, held()) == (0, [foreign], [])
                ready.set()
                await follower.until(lambda: follower.live_id == foreign)

        run(scenario)

    def test_ends_with_the_process(self, publish: Publish, publish_plain: Publish, following: Any) -> None:
        async def scenario() -> None:
            ended = []

            async def recalibrate(_bundle: str, _spec: EngineSpec) -> bool:
                try:
                    await asyncio.sleep(600)
                finally:
                    ended.append(True)
                return False

            publish_plain("old")
            async with following(recalibrate=recalibrate) as follower:
                publish("foreign", built=ELSEWHERE)
                await follower.refresh()
                await asyncio.sleep(0)
            assert ended == [True]

        run(scenario)

    def test_goes_on_while_onnx_runtime_stands_in(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            async def recalibrate(_bundle: str, _spec: EngineSpec) -> bool:
                publish("here")
                return True

            foreign = publish("foreign", built=ELSEWHERE)
            async with following(recalibrate=recalibrate) as follower:
                assert follower.serving == (foreign, "onnxruntime", 1)
                assert await follower.refresh() is False
                while follower.serving[1] == "onnxruntime":
                    await asyncio.sleep(0.01)
                assert follower.serving[2] == 2
                assert follower.live_id != foreign

        run(scenario)


class TestSomethingElseIsWanted:
    """Compiling takes minutes: whoever wants something else does not wait for it, and it leaves nothing behind."""

    @pytest.mark.parametrize("moment", ["compiling", "looking at the machine", "trying"])
    def test_a_rollback_ends_it(
        self,
        publish: Publish,
        publish_plain: Publish,
        following: Any,
        never_ends: Callable[[], None],
        trials: Any,
        tmp_path: Path,
        moment: str,
        held: Callable[[], list[str]],
        store: Store,
    ) -> None:
        async def scenario() -> None:
            asked = list[str]()

            def find() -> Gpu:
                time.sleep(1.0 if moment == "looking at the machine" else 0.0)
                return GPU

            async def recalibrate(bundle: str, _spec: EngineSpec) -> bool:
                asked.append(bundle)
                return False

            first = publish_plain("first")
            async with following(find=find, trial=True, recalibrate=recalibrate) as follower:
                trials.go.set()
                publish_plain("second")
                await follower.refresh()
                foreign = publish("foreign", built=ELSEWHERE)
                if moment == "trying":
                    # It was compiled by an earlier process.
                    checked = check_bundle(store.path(foreign))
                    compiler = LocalCompiler(tmp_path / "workshop", find=lambda: GPU)
                    misfit = compiler.misfit(checked, FP32)
                    assert misfit is not None
                    compiler.build(checked, FP32, misfit, Child())
                    trials.go.clear()
                else:
                    follower._recalibration._done.add(foreign)
                never_ends()
                moving = asyncio.create_task(follower.refresh())
                wanted = {"compiling": State.BUILDING, "trying": State.TRYING}.get(moment, State.VERIFYING)
                await follower.until(lambda: follower.state is wanted)
                await asyncio.sleep(0.2)
                async with asyncio.timeout(60):
                    await follower.rollback(now=NOW)
                assert await moving is False
                assert follower.serving == (first, "onnxruntime", 3)
                assert follower.status().recalibrating == ()
                assert asked == []
                assert (follower.refusals, follower.status().history[-1].reason) == (
                    0,
                    "given up, because something else is wanted",
                )
            assert len(held()) == (moment == "trying")

        run(scenario)

    def test_a_rollback_to_nothing_leaves_it_alone(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                moving = asyncio.create_task(follower.refresh())
                await follower.until(lambda: follower.state is State.BUILDING)
                with pytest.raises(UnknownBundle, match="no bundle stands by"):
                    await follower.rollback(now=NOW)
                assert await moving is True
                assert follower.serving == (foreign, "tensorrt_rtx", 2)

        run(scenario)

    def test_a_pointer_that_moves_on_ends_it(
        self,
        publish_plain: Publish,
        never_compiled: Callable[[], Any],
        held: Callable[[], list[str]],
    ) -> None:
        async def scenario() -> None:
            async with never_compiled() as follower:
                stop = asyncio.Event()
                watching = asyncio.create_task(follower.run(stop))
                await follower.until(lambda: follower.state is State.BUILDING)
                last = publish_plain("last")
                await follower.until(lambda: follower.live_id == last)
                assert (follower.swaps, follower.refusals) == (1, 0)
                stop.set()
                await watching
            assert held() == []

        run(scenario)

    def test_what_was_loaded_for_a_pointer_that_has_left_never_serves(
        self, publish: Publish, publish_plain: Publish, following: Any, trials: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            publish_plain("old")
            async with following(trial=True) as follower:
                publish("here")
                moving = asyncio.create_task(follower.refresh())
                await follower.until(lambda: bool(trials.asked))
                last = publish_plain("last")
                trials.go.set()
                assert await moving is True
                assert (follower.live_id, follower.swaps) == (last, 1)
                await follower.until(lambda: machine.opened[0]._closed)

        run(scenario)

    def test_the_end_of_the_process_ends_it(
        self,
        never_compiled: Callable[[], Any],
        held: Callable[[], list[str]],
    ) -> None:
        async def scenario() -> None:
            async with never_compiled() as follower:
                moving = asyncio.create_task(follower.refresh())
                await follower.until(lambda: follower.state is State.BUILDING)
            assert await moving is False
            assert held() == []

        run(scenario)

"""Bundles whose engine is for another machine are compiled for this one, by the real TensorRT-RTX, in a child."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from engines.backends.tensorrt.plan import PLAN
from engines.errors import BundleRefused, UnknownBundle
from engines.live.load.background_loader import EngineOptions
from engines.live.load.load_bundle import check_bundle
from engines.live.load.local_compile import LocalCompiler
from engines.live.load.trial_process import try_out
from engines.live.settings import SwapSettings
from engines.live.states import State
from engines.live.swap.follower import StoreFollower
from engines.machine.child import Child
from engines.machine.gpu import NoGpu
from engines.store.store import Store
from tests.support.scenario import run
from tests.support.tensorrt import ELSEWHERE, FP32, GPU, HERE

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[..., str]


class TestAnotherMachine:
    """An engine that was compiled for another GPU, driver or version."""

    @pytest.mark.parametrize(
        "built",
        [
            ELSEWHERE,
            HERE | {"driver_major": 12},
            {"version": "1.6.0.1"},
        ],
        ids=["gpu", "driver", "version"],
    )
    def test_it_is_compiled_here_while_the_old_one_serves(
        self,
        publish: Publish,
        publish_plain: Publish,
        following: Any,
        machine: Any,
        tmp_path: Path,
        built: dict[str, Any],
    ) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            async with following() as follower:
                foreign = publish("foreign", built=built)
                moving = asyncio.create_task(follower.refresh())
                await follower.until(lambda: follower.state is State.BUILDING)
                assert follower.serving == (old, "onnxruntime", 1)
                assert await moving is True
                assert follower.serving == (foreign, "tensorrt_rtx", 2)
                assert [path.parent for path in machine.deserialized] == [tmp_path / "workshop"]
                assert follower.status().vouched_by == "golden images"

        run(scenario)

    def test_what_was_compiled_is_found_again(
        self, publish: Publish, following: Any, held: Callable[[], list[str]]
    ) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                await follower.refresh()
                assert follower.serving == (foreign, "tensorrt_rtx", 2)
            async with following() as follower:
                assert follower.serving == (foreign, "tensorrt_rtx", 1)
                assert "building" not in follower.status().history[-1].seconds()
            [made] = held()
            assert made.startswith(foreign)

        run(scenario)

    def test_at_a_start_onnx_runtime_stands_in(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                assert follower.serving == (foreign, "onnxruntime", 1)
                assert follower.status().vouched_by == "golden images"
                assert await follower.refresh() is True
                assert follower.serving == (foreign, "tensorrt_rtx", 2)
                assert follower.status().standby is None
                assert await follower.refresh() is False
                with pytest.raises(UnknownBundle, match="no bundle stands by"):
                    await follower.rollback(now=NOW)

        run(scenario)

    def test_a_damaged_one_is_compiled_again(self, publish: Publish, following: Any, tmp_path: Path) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as follower:
                await follower.refresh()
            [plan] = (tmp_path / "workshop").glob(f"*/{PLAN}")
            content = bytearray(plan.read_bytes())
            content[len(content) // 2] ^= 1
            plan.write_bytes(content)
            async with following() as follower:
                with capture_logs() as logs:
                    assert await follower.refresh() is True
                assert "compiled_engine_refused" in [entry["event"] for entry in logs]
                assert follower.serving == (foreign, "tensorrt_rtx", 2)

        run(scenario)

    def test_one_that_computes_otherwise_is_refused_and_the_old_one_stays(
        self, publish: Publish, publish_plain: Publish, following: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            machine.off = 0.01
            async with following() as follower:
                publish("foreign", built=ELSEWHERE)
                assert await follower.refresh() is False
                assert follower.serving == (old, "onnxruntime", 1)
                assert "outputs differ from the golden ones by 0.01" in follower.status().history[-1].reason
                assert await follower.refresh() is False
                assert follower.refusals == 1

        run(scenario)

    def test_the_bundle_says_how_far_it_may_be_away(
        self, publish: Publish, publish_plain: Publish, following: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            publish_plain("old")
            machine.off = 0.01
            async with following() as follower:
                foreign = publish("foreign", built=ELSEWHERE, tolerance=0.02)
                assert await follower.refresh() is True
                assert follower.serving == (foreign, "tensorrt_rtx", 2)

        run(scenario)

    def test_a_stand_in_serves_on_where_nothing_can_be_compiled(
        self, publish: Publish, following: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            machine.monkeypatch.setattr("engines.machine.child.sys.executable", "/bin/false")
            async with following() as follower:
                assert await follower.refresh() is False
                assert "compiling it ended with status 1" in follower.status().history[-1].reason
                for _ in range(3):
                    assert await follower.refresh() is False
                assert follower.serving == (foreign, "onnxruntime", 1)
                assert follower.refusals == 1

        run(scenario)

    def test_a_stand_in_that_computes_otherwise_never_serves(self, publish: Publish, following: Any) -> None:
        async def scenario() -> None:
            # The certified engine was 0.5 away from what ONNX Runtime computes, and so is the one that is compiled.
            publish("foreign", built=ELSEWHERE, off=0.5)
            with capture_logs() as logs, pytest.raises(BundleRefused, match="outputs differ from the golden ones"):
                async with following():
                    pass
            events = [entry["event"] for entry in logs]
            assert events[:2] == ["engine_of_another_machine", "stand_in_refused"]
            assert "bundle_live" not in events

        run(scenario)

    def test_without_a_gpu_it_is_refused(self, publish: Publish, publish_plain: Publish, store: Store) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            compiler = LocalCompiler(store.root / "workshop", find=lambda: NoGpu(reason="none is plugged in"))
            options = EngineOptions(threads=1, most=1, compiler=compiler)
            follower = StoreFollower(store, settings=SwapSettings(trial=False), options=options)
            await follower.start()
            publish("foreign", built=ELSEWHERE)
            assert await follower.refresh() is False
            assert follower.live_id == old
            assert "needs a GPU, and there is none" in follower.status().history[-1].reason
            await follower.close()

        run(scenario)

    def test_a_bundle_for_another_engine_is_compiled_for_the_one_that_serves(
        self, publish_plain: Publish, following: Any
    ) -> None:
        async def scenario() -> None:
            plain = publish_plain("plain")
            async with following(serve_with=FP32) as follower:
                assert follower.serving == (plain, "onnxruntime", 1)
                assert await follower.refresh() is True
                assert follower.serving == (plain, "tensorrt_rtx", 2)

        run(scenario)


class TestTrial:
    def test_what_was_compiled_here_is_tried_and_all_golden_images_compared_again(
        self,
        publish: Publish,
        publish_plain: Publish,
        following: Any,
        trials: Any,
        tmp_path: Path,
        held: Callable[[], list[str]],
    ) -> None:
        async def scenario() -> None:
            trials.go.set()
            publish_plain("old")
            async with following(trial=True) as follower:
                foreign = publish("foreign", built=ELSEWHERE)
                assert await follower.refresh() is True
                assert follower.serving == (foreign, "tensorrt_rtx", 2)
            [name] = held()
            assert trials.asked == [tmp_path / "workshop" / name]

        run(scenario)

    def test_the_child_is_told_where_it_was_compiled(self, publish: Publish, store: Store, tmp_path: Path) -> None:
        """By the real child, which finds that there is no GPU to go on with."""
        home = store.path(publish("here"))
        with pytest.raises(BundleRefused, match=rf"{home.name}: .*nothing/engine\.json: cannot be read"):
            try_out(Child(), home, compiled=tmp_path / "nothing", threads=1, most=1)


class TestLocalCompiler:
    def test_of_two_miners_one_compiles_and_both_serve(
        self, publish: Publish, following: Any, held: Callable[[], list[str]]
    ) -> None:
        async def scenario() -> None:
            foreign = publish("foreign", built=ELSEWHERE)
            async with following() as first, following() as second:
                with capture_logs() as logs:
                    assert all(await asyncio.gather(first.refresh(), second.refresh()))
                assert first.serving == second.serving == (foreign, "tensorrt_rtx", 2)
                assert [entry["event"] for entry in logs].count("compiling") == 1
            assert len(held()) == 1

        run(scenario)

    def test_what_a_killed_one_left_is_swept_and_the_latest_are_kept(
        self,
        publish: Publish,
        following: Any,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        held: Callable[[], list[str]],
    ) -> None:
        async def scenario() -> None:
            monkeypatch.setattr("engines.live.load.local_compile.KEPT", 2)
            (tmp_path / "workshop" / ".building-dead").mkdir(parents=True)
            made = []
            for number in range(3):
                made.append(publish(f"foreign{number}", built=ELSEWHERE, shift=0.1 * number))
                async with following() as follower:
                    await follower.refresh()
                    assert follower.serving == (made[-1], "tensorrt_rtx", 2)
            assert {name[:16] for name in held()} == set(made[1:])

        run(scenario)

    def test_what_would_not_fit_into_memory_is_not_even_compiled(
        self, publish: Publish, publish_plain: Publish, store: Store, tmp_path: Path, held: Callable[[], list[str]]
    ) -> None:
        async def scenario() -> None:
            old = publish_plain("old")
            left = [10**12]
            compiler = LocalCompiler(tmp_path / "workshop", find=lambda: GPU)
            options = EngineOptions(threads=1, most=1, compiler=compiler, memory=lambda: left[0])
            follower = StoreFollower(store, settings=SwapSettings(trial=False), options=options)
            await follower.start()
            left[0] = 2**20
            publish("foreign", built=ELSEWHERE)
            assert await follower.refresh() is False
            assert follower.live_id == old
            assert "1 MiB are left" in follower.status().history[-1].reason
            assert held() == []
            await follower.close()

        run(scenario)


def test_the_compiler_says_why_it_cannot(
    store: Store, publish_plain: Publish, tmp_path: Path, held: Callable[[], list[str]]
) -> None:
    checked = check_bundle(store.path(publish_plain("plain")))
    compiler = LocalCompiler(tmp_path / "workshop", find=lambda: GPU)
    bf16 = FP32.model_copy(update={"precision": "bf16"})
    misfit = compiler.misfit(checked, bf16)
    assert misfit is not None
    assert misfit.why == "the bundle holds no plan of tensorrt cuda bf16"
    with pytest.raises(BundleRefused, match=r"model\.bf16\.onnx"):
        compiler.build(checked, bf16, misfit, Child())
    assert held() == []

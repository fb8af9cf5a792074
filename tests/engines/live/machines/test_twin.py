"""Engines that get another night's weights."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from engines.backends.onnxruntime import OnnxEngine
from engines.backends.tensorrt.engine import TensorRtEngine
from engines.engine import Refittable
from engines.live.states import State
from engines.store.file_names import ENGINE
from engines.store.store import Store
from tests.support.scenario import run
from tests.support.tensorrt import FP32

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[..., str]


class TestTwin:
    """The engine that stands by takes the weights of the next night; the one that serves is never touched."""

    def test_five_nights_need_two_engines(
        self, publish: Publish, following: Any, machine: Any, plain_images: Callable[..., Any]
    ) -> None:
        async def scenario() -> None:
            images, answers, bundles = plain_images([[200, 50, 40]]), [], []
            publish("night0", refittable=True)
            async with following() as follower:
                for night in range(1, 5):
                    with follower.slot.lease() as lease:
                        before = follower.score(images)
                        bundle = publish(f"night{night}", refittable=True, shift=0.1 * night)
                        assert await follower.refresh() is True
                        # Who began with the old bundle still gets its answer.
                        assert float(lease.bundle.engine.infer(images).roadwork_score[0]) == before
                    assert follower.serving == (bundle, "tensorrt_rtx", night + 1)
                    answers.append(follower.score(images))
                    bundles.append(bundle)
                assert np.diff(answers) == pytest.approx([0.1, 0.1, 0.1], abs=1e-5)
                assert follower.status().vouched_by == "golden images"
                assert len(machine.deserialized) == 2
                assert [path.parent.name for path in machine.refits] == bundles[1:]
                # Going back needs the one before, which is whole.
                await follower.rollback(now=NOW)
                assert follower.score(images) == answers[-2]
                states = [life.state for life in follower.status().history]
                assert states == [State.UNLOADED] * 3 + [State.ACTIVE, State.STANDBY]

        run(scenario)

    def test_weights_that_are_not_taken_are_loaded_instead(
        self, publish: Publish, two_nights: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            async with two_nights() as follower:
                machine.takes_weights = False
                third = publish("night2", refittable=True, shift=0.2)
                with capture_logs() as logs:
                    assert await follower.refresh() is True
                assert [entry["reason"] for entry in logs if entry["event"] == "refit_refused"]
                assert follower.serving == (third, "tensorrt_rtx", 3)
                assert len(machine.deserialized) == 3

        run(scenario)

    def test_a_twin_that_computes_otherwise_afterwards_is_thrown_away(
        self, publish: Publish, two_nights: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            async with two_nights() as follower:
                # The library says that it is done, and has left some weights as they were.
                machine.monkeypatch.setattr(TensorRtEngine, "refit", lambda _engine, _model: None)
                third = publish("night2", refittable=True, shift=0.2)
                with capture_logs() as logs:
                    assert await follower.refresh() is True
                [reason] = [entry["reason"] for entry in logs if entry["event"] == "refit_refused"]
                assert "outputs differ from the golden ones" in reason
                assert follower.serving == (third, "tensorrt_rtx", 3)
                assert len(machine.deserialized) == 3

        run(scenario)

    def test_native_code_that_raises_something_else_does_no_harm(
        self, publish: Publish, two_nights: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            def refit(*_: object) -> None:
                raise RuntimeError("factory function returned nullptr")

            async with two_nights() as follower:
                machine.monkeypatch.setattr("engines.backends.tensorrt.engine.refit", refit)
                third = publish("night2", refittable=True, shift=0.2)
                assert await follower.refresh() is True
                assert follower.serving == (third, "tensorrt_rtx", 3)
                assert machine.opened[0]._closed

        run(scenario)

    def test_a_bad_night_does_not_cost_what_stands_by(
        self, publish: Publish, two_nights: Any, trials: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            trials.go.set()
            async with two_nights(trial=True) as follower:
                first = follower.status().history[0].bundle
                trials.refuses = "it crashed"
                publish("bad", refittable=True, shift=0.2, off=1.0)
                assert await follower.refresh() is False
                assert (follower.status().standby, machine.refits) == (first, [])
                await follower.rollback(now=NOW)
                assert follower.live_id == first

        run(scenario)

    def test_one_that_was_taken_and_is_not_needed_any_more_is_closed(
        self, publish: Publish, two_nights: Any, machine: Any
    ) -> None:
        async def scenario() -> None:
            async with two_nights() as follower:
                publish("night2", refittable=True, shift=0.2)
                busy = threading.Event()
                follower._loader.dispose(lambda: (busy.wait(30), None)[1])
                moving = asyncio.create_task(follower.refresh())
                await follower.until(lambda: follower.status().standby is None)
                await asyncio.sleep(0.1)
                moving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await moving
                busy.set()
                await follower.until(lambda: machine.opened[0]._closed)
                assert not machine.opened[1]._closed

        run(scenario)

    def test_whether_the_weights_fit_is_known_without_reading_them(
        self, publish: Publish, store: Store, machine: Any
    ) -> None:
        model = store.path(publish("night0", refittable=True)) / ENGINE
        other = store.path(publish("night1", refittable=True, shift=0.1)) / ENGINE
        engine = machine.open(FP32, model, compiled=None, threads=1)
        # Not part of what a live miner installs.
        machine.monkeypatch.setitem(sys.modules, "onnx", None)
        assert isinstance(engine, Refittable)
        assert engine.takes(other)
        assert not engine.takes(other.with_name("nothing") / ENGINE)

    @pytest.mark.parametrize(
        "second", [{"refittable": False}, {"refittable": True, "heads": ("head.works",)}], ids=["sealed", "other graph"]
    )
    def test_only_a_plan_of_the_same_graph_that_was_built_for_it(
        self, publish: Publish, following: Any, machine: Any, second: dict[str, Any]
    ) -> None:
        async def scenario() -> None:
            publish("night0", **({"refittable": True} | {k: v for k, v in second.items() if k == "refittable"}))
            async with following() as follower:
                publish("night1", refittable=True, shift=0.1)
                await follower.refresh()
                publish("night2", refittable=True, shift=0.2, **{k: v for k, v in second.items() if k == "heads"})
                await follower.refresh()
                assert machine.refits == []

        run(scenario)

    def test_one_that_still_answers_is_left_alone(
        self, publish: Publish, following: Any, machine: Any, plain_images: Callable[..., Any]
    ) -> None:
        async def scenario() -> None:
            publish("night0", refittable=True)
            async with following() as follower:
                with follower.slot.lease() as lease:
                    publish("night1", refittable=True, shift=0.1)
                    await follower.refresh()
                    third = publish("night2", refittable=True, shift=0.2)
                    await follower.refresh()
                    assert machine.refits == []
                    assert follower.live_id == third
                    lease.bundle.engine.infer(plain_images([[1, 2, 3]]))

        run(scenario)


def test_tensorrt_engines_can_be_refitted() -> None:
    assert issubclass(TensorRtEngine, Refittable)
    assert not issubclass(OnnxEngine, Refittable)

"""A canary over a real store, follower and batcher: what it rolls back, what it lets pass, and what it leaves alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import BundleRefused, InferenceError
from engines.live.batcher import Batcher
from engines.live.load.background_loader import EngineOptions
from engines.live.settings import BatchSettings, CanarySettings, SwapSettings
from engines.live.swap import canary as canary_module
from engines.live.swap.bands import Answered
from engines.live.swap.canary import Canary, Ruling
from engines.live.swap.follower import StoreFollower
from engines.store.bundle import Provenance
from engines.store.file_names import GOLDEN
from engines.store.golden import write_golden
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXIT, DEFER, FAIL = Answered(False, False, False), Answered(False, True, False), Answered(True, False, False)
SHORT = 0.2 / 60
Publish = Callable[..., str]


@dataclass
class Parts:
    """A canary and what is around it."""

    follower: StoreFollower
    canary: Canary
    rulings: list[Ruling] = field(default_factory=list)

    def answers(self, *answered: Answered, image: str | None = None) -> None:
        for number, one in enumerate(answered):
            self.canary.note(self.follower.slot.generation, f"{number}" if image is None else image, one)

    async def ruling(self) -> Ruling:
        async with asyncio.timeout(60):
            while not self.rulings:
                await asyncio.sleep(0.01)
        return self.rulings[-1]


@asynccontextmanager
async def watched(
    store: Store, monkeypatch: pytest.MonkeyPatch, *, standby: bool = True, requests: int = 20, minutes: float = SHORT
) -> AsyncIterator[Parts]:
    monkeypatch.setattr(canary_module, "POLL_S", 0.01)
    settings = SwapSettings(trial=False, standby=standby, canary=CanarySettings(requests=requests, minutes=minutes))
    follower = StoreFollower(store, settings=settings, options=EngineOptions(threads=1, most=2))
    batcher = Batcher(BatchSettings())
    rulings: list[Ruling] = []
    canary = Canary(
        settings.canary,
        store=store,
        slot=follower.slot,
        batcher=batcher,
        roll_back=lambda bundle, why: follower.give_up(bundle, why, now=NOW),
        tell=rulings.append,
    )
    follower.on_live = canary.begin
    await follower.start()
    try:
        yield Parts(follower, canary, rulings)
    finally:
        await canary.close()
        await asyncio.to_thread(batcher.close)
        await follower.close()


@pytest.mark.parametrize("standby", [True, False])
def test_a_bundle_that_is_not_what_its_certificate_says_is_rolled_back_and_not_taken_again(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch, *, standby: bool
) -> None:
    async def scenario() -> None:
        good = publish("a")
        async with watched(store, monkeypatch, standby=standby) as parts:
            bad = publish("b")
            assert await parts.follower.refresh()
            parts.answers(*[DEFER] * 20)
            ruling = await parts.ruling()
            assert (ruling.bundle, ruling.back) == (bad, True)
            assert "of 10 requests exited, too few" in ruling.reason
            assert parts.follower.live_id == good
            pointer = store.current()
            assert pointer is not None
            assert pointer.bundle == good
            assert "because 0 of 10 requests exited" in store.rejected()[bad]
            with pytest.raises(BundleRefused, match="too few"):
                store.activate(bad, now=NOW)
            # What serves in its place has served before.
            assert parts.canary.status() is None

    asyncio.run(scenario())


def test_a_bundle_whose_own_engine_comes_is_watched_on(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another engine stood in for it: what serves from here on has answered nothing yet."""

    async def scenario() -> None:
        publish("a")
        async with watched(store, monkeypatch) as parts:
            bad = publish("b")
            await parts.follower.refresh()
            parts.answers(EXIT, DEFER)
            with parts.follower.slot.lease() as lease:
                # As the follower tells it of an engine that takes the place of one that stood in.
                parts.canary.begin(lease.bundle, lease.generation, known=True)
            told = parts.canary.status()
            assert told is not None
            assert (told["bundle"], told["requests"]) == (bad, 0)
            parts.answers(*[DEFER] * 20)
            ruling = await parts.ruling()
            assert (ruling.bundle, ruling.back) == (bad, True)

    asyncio.run(scenario())


def test_failures_of_the_engine_roll_back(store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        publish("a")
        async with watched(store, monkeypatch) as parts:
            publish("b")
            await parts.follower.refresh()
            for number in range(10):
                # A failure has no hash: each counts.
                parts.answers(FAIL if number % 2 else EXIT, image="" if number % 2 else f"{number}")
            assert "Stage-1 failed on 5 of 10 requests" in (await parts.ruling()).reason

    asyncio.run(scenario())


def test_golden_images_that_come_out_otherwise_roll_back(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        good = publish("a")
        async with watched(store, monkeypatch, minutes=10) as parts:
            publish("b")

            def broken(_: Any, images: Any) -> Stage1Outputs:
                return Stage1Outputs(np.full((len(images), 2), 9.0, np.float32), np.zeros(len(images), np.float32))

            await parts.follower.refresh()
            with parts.follower.slot.lease() as lease:
                monkeypatch.setattr(type(lease.bundle.engine), "infer", broken)
            assert "golden images: outputs differ from the golden ones by" in (await parts.ruling()).reason
            assert parts.follower.live_id == good

    asyncio.run(scenario())


def test_golden_images_that_do_not_come_back_roll_back(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()

    async def scenario() -> None:
        good = publish("a")
        async with watched(store, monkeypatch, minutes=10) as parts:
            publish("b")

            def stuck(_: Any, __: Any) -> Stage1Outputs:
                assert go.wait(60)
                raise InferenceError("ended")

            await parts.follower.refresh()
            with parts.follower.slot.lease() as lease:
                monkeypatch.setattr(type(lease.bundle.engine), "infer", stuck)
            try:
                assert "golden images: one did not come back within" in (await parts.ruling()).reason
                assert parts.follower.live_id == good
            finally:
                go.set()

    # It gives up at once, and long before an image that the batcher has not taken yet is due: that one is put off.
    monkeypatch.setattr(canary_module, "LATE_S", 0.1 - canary_module.GOLDEN_S)
    asyncio.run(scenario())


def test_golden_images_are_held_to_the_limit_that_every_load_is_held_to(
    store: Store,
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    provenance: Provenance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of logits with a range of 0.2 a difference of 0.005 is too much in fp32, though the bundle tolerates 0.02."""
    graph = write_onnx(tmp_path / "model.onnx")
    values = np.array([[100, 105, 105], [105, 105, 100], [103, 100, 103], [104, 100, 102]], np.uint8)
    images = np.broadcast_to(values[:, :, None, None], (len(values), 3, 32, 32)).copy()
    expected = OnnxEngine(graph, threads=1).infer(images)

    def publish(note: str) -> str:
        files = write_bundle_files(tmp_path / note, engine=graph, note=note)
        write_golden(files / GOLDEN, images, expected)
        bundle = store.publish(files, provenance, parity_tolerance=0.02)
        store.activate(bundle, now=NOW)
        return bundle

    def off(engine: OnnxEngine, batch: Pixels) -> Stage1Outputs:
        found = infer(engine, batch)
        return Stage1Outputs(found.logits + np.float32(0.005), found.select_score)

    async def scenario() -> None:
        publish("a")
        async with watched(store, monkeypatch, minutes=10) as parts:
            publish("b")
            await parts.follower.refresh()
            monkeypatch.setattr(OnnxEngine, "infer", off)
            assert "golden images: outputs differ from the golden ones by 0.005" in (await parts.ruling()).reason

    infer = OnnxEngine.infer
    asyncio.run(scenario())


def test_a_bundle_that_does_what_it_says_passes(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        publish("a")
        async with watched(store, monkeypatch) as parts:
            good = publish("b")
            await parts.follower.refresh()
            with parts.follower.slot.lease() as lease:
                exits = lease.bundle.params.exit_coverage
            assert exits is not None
            defers = round(20 * (1 - exits.events / exits.trials))
            parts.answers(*[DEFER] * defers, *[EXIT] * (20 - defers))
            # One image that is sent again and again counts once.
            parts.answers(*[DEFER] * 50, image="0")
            told = parts.canary.status()
            assert told is not None
            assert (told["bundle"], told["requests"], told["deferred"]) == (good, 20, defers)
            ruling = await parts.ruling()
            assert (ruling.bundle, ruling.reason, ruling.counts.requests) == (good, "", 20)
            assert parts.follower.live_id == good

    asyncio.run(scenario())


def test_neither_the_first_bundle_nor_another_generation_is_watched(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        publish("a")
        async with watched(store, monkeypatch) as parts:
            assert parts.canary.status() is None
            publish("b")
            await parts.follower.refresh()
            for number in range(20):
                parts.canary.note(parts.follower.slot.generation - 1, f"{number}", DEFER)
            told = parts.canary.status()
            assert told is not None
            assert told["requests"] == 0
            # A swap ends the watch of the bundle before.
            later = publish("c")
            await parts.follower.refresh()
            told = parts.canary.status()
            assert told is not None
            assert told["bundle"] == later

    asyncio.run(scenario())

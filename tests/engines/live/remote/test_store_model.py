"""The bundles of a store as versions of a model, for a server of ours."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.errors import BundleRefused, InferenceError, UnknownBundle
from engines.live.load.load_bundle import LiveBundle, load_bundle
from engines.live.remote.store_model import KEPT, StoreModel
from engines.remote.bundle_version import version_of
from engines.store.file_names import ENGINE
from engines.store.holds import is_held
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

NOW = datetime(2026, 1, 1, tzinfo=UTC)
IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
Publish = Callable[..., str]


def model_of(store: Store, kept: int = KEPT) -> StoreModel:
    return StoreModel(store.root, threads=1, max_batch=2, kept=kept)


def test_it_computes_what_the_store_holds(store: Store, publish: Publish) -> None:
    first, second = publish("a"), publish("b")
    model = model_of(store)
    assert model.versions == (version_of(first), version_of(second))
    assert (model.shape, model.outputs) == ((32, 32), {"logits": 2, "select_score": 1})
    assert "onnxruntime" in model.platform
    # More images than a batch has go in several.
    outputs = model.compute(version_of(first), IMAGES)
    assert {name: len(values) for name, values in outputs.items()} == {"logits": 5, "select_score": 5}
    with pytest.raises(InferenceError, match="has no bundle that is version 7"):
        model.compute("7", IMAGES)
    model.close()


def test_a_bundle_is_loaded_once_however_many_ask(
    store: Store, publish: Publish, at_once: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = publish("a"), publish("b")
    model, loaded = model_of(store), list[str]()
    load = load_bundle

    def counted(*given: object, **more: object) -> object:
        loaded.append(str(given[0]))
        return load(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("engines.live.remote.store_model.load_bundle", counted)
    at_once(lambda _: model.compute(version_of(first), IMAGES))
    assert len(loaded) == 1
    model.close()


def test_those_that_nobody_asked_for_lately_are_closed(store: Store, publish: Publish) -> None:
    made = [publish(note) for note in "abcd"]
    model = model_of(store, kept=2)
    for bundle in made:
        model.compute(version_of(bundle), IMAGES)
    assert [is_held(store.root, bundle) for bundle in made] == [False, False, True, True]
    model.close()
    assert not any(is_held(store.root, bundle) for bundle in made)


def test_one_that_is_asked_for_stays_loaded_where_all_others_are_in_use(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = publish("a"), publish("b")
    model = model_of(store, kept=1)
    load, loads = load_bundle, list[str]()

    def counted(*given: object, **more: object) -> object:
        loads.append(str(given[0]))
        assert len(loads) < 3, "loaded again and again"
        return load(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("engines.live.remote.store_model.load_bundle", counted)
    model._lent(version_of(second))
    assert len(model.compute(version_of(first), IMAGES)["logits"]) == 5
    assert len(loads) == 1
    model.close()


def test_what_becomes_current_is_loaded_before_somebody_asks(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.live.remote.store_model.LOOK_S", 0.01)
    publish("a")
    model = model_of(store)

    async def scenario() -> None:
        task = asyncio.create_task(model.follow())
        second = publish("b")
        async with asyncio.timeout(20):
            while not is_held(store.root, second):
                await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(scenario())
    model.close()


def test_what_is_computing_when_it_is_closed_ends_first(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = publish("a")
    model, begun, go = model_of(store), threading.Event(), threading.Event()
    infer = OnnxEngine.infer

    def held_up(engine: OnnxEngine, images: Pixels) -> Stage1Outputs:
        begun.set()
        assert go.wait(60)
        return infer(engine, images)

    monkeypatch.setattr(OnnxEngine, "infer", held_up)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(model.compute, version_of(bundle), IMAGES[:1])
        assert begun.wait(60)
        model.close()
        assert is_held(store.root, bundle)
        go.set()
        assert len(asked.result()["logits"]) == 1
    assert not is_held(store.root, bundle)
    with pytest.raises(InferenceError, match="the server is closed"):
        model.compute(version_of(bundle), IMAGES[:1])


def test_whatever_a_bundle_leads_to_the_next_one_is_loaded_and_a_refused_one_is_not_read_again_and_again(
    store: Store, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("a")
    model, load, tried = model_of(store), load_bundle, list[str]()

    def fails(path: Path, **more: object) -> LiveBundle:
        tried.append(path.name)
        if path.name == second:
            raise RuntimeError("a fault of native code")
        return load(path, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("engines.live.remote.store_model.load_bundle", fails)
    monkeypatch.setattr("engines.live.remote.store_model.LOOK_S", 0.001)
    looks = list[str]()
    current = model._current

    def counted() -> str:
        looks.append(current())
        return looks[-1]

    monkeypatch.setattr(model, "_current", counted)
    second = publish("b")

    async def scenario() -> None:
        following = asyncio.create_task(model.follow())
        async with asyncio.timeout(60):
            while looks.count(second) < 5:
                await asyncio.sleep(0.001)
            assert tried == [second]
            third = publish("c")
            while not is_held(store.root, third):
                await asyncio.sleep(0.001)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    asyncio.run(scenario())
    assert not is_held(store.root, second)
    model.close()


def test_a_bundle_that_may_not_serve_is_refused_as_a_miner_does(store: Store, publish: Publish) -> None:
    publish("a")
    model = model_of(store)
    second = publish("b", golden_shift=1.0)
    with pytest.raises(BundleRefused, match="differ from the golden ones"):
        asyncio.run(model.infer(version_of(second), IMAGES))
    with pytest.raises(BundleRefused, match="differ from the golden ones"):
        asyncio.run(model.load())
    third = publish("c")
    (store.path(third) / ENGINE).write_bytes(b"")
    with pytest.raises(BundleRefused, match="changed"):
        asyncio.run(model.load())
    model.close()


def test_without_a_bundle_there_is_no_model(store: Store) -> None:
    with pytest.raises(UnknownBundle, match="no bundle is current"):
        model_of(store)

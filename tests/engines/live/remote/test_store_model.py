"""The bundles of a store as versions of a model, for a server of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest

from engines.errors import BundleRefused, InferenceError, UnknownBundle
from engines.live.load.load_bundle import load_bundle
from engines.live.remote.store_model import KEPT, StoreModel
from engines.remote.bundle_version import version_of
from engines.store.file_names import ENGINE
from engines.store.holds import is_held
from engines.store.store import Store

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

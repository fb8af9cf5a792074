"""The application of Ray Serve: which requests share an engine call. Ray itself is not installed here.

What stands for it batches as its documentation says: requests are put together while `batch_size_fn` of them, or their
number, is at most the size that was set last.

Reference: Ray Serve 2.60, "Dynamic Request Batching", and `ray.serve.batch`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engines.backends.onnxruntime import OnnxEngine
from engines.remote.bundle_version import version_of
from engines.store.file_names import ENGINE
from engines.store.store import Store
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

RAY = Path(__file__).parents[2] / "deploy" / "ray" / "cascade_serve.py"
Publish = Callable[..., str]
Handler = Callable[[Any, list[Any]], Awaitable[list[Any]]]


class Batched:
    """A method whose calls are put together."""

    def __init__(self, handler: Handler, size: int, size_of: Callable[[list[Any]], int]) -> None:
        self.handler, self.size, self.size_of = handler, size, size_of
        self.waiting: list[tuple[Any, asyncio.Future[Any]]] = []

    def __get__(self, owner: object, _: type | None = None) -> Any:
        def call(item: object) -> asyncio.Future[Any]:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[Any] = loop.create_future()
            self.waiting.append((item, done))
            if len(self.waiting) == 1:
                loop.call_soon(lambda: loop.create_task(self.work(owner)))
            return done

        call.set_max_batch_size = self.set_max_batch_size  # type: ignore[attr-defined]
        return call

    def set_max_batch_size(self, size: int) -> None:
        self.size = size

    async def work(self, owner: object) -> None:
        waiting, self.waiting = self.waiting, []
        while waiting:
            count = 1
            while count < len(waiting) and self.size_of([item for item, _ in waiting[: count + 1]]) <= self.size:
                count += 1
            batch, waiting = waiting[:count], waiting[count:]
            for (_, done), found in zip(batch, await self.handler(owner, [item for item, _ in batch]), strict=True):
                done.set_result(found)


def batch(
    *, max_batch_size: int, batch_wait_timeout_s: float, batch_size_fn: Callable[[list[Any]], int] = len
) -> Callable[[Handler], Batched]:
    assert batch_wait_timeout_s > 0
    return lambda handler: Batched(handler, max_batch_size, batch_size_fn)


@pytest.fixture
def cascade_serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with what stands for Ray."""
    ray, serve = ModuleType("ray"), ModuleType("ray.serve")
    made: dict[str, Any] = {}

    def deployment(**given: Any) -> Callable[[Any], Any]:
        made.update(given)
        return lambda _: SimpleNamespace(bind=lambda: made)

    vars(ray)["serve"] = serve
    vars(serve).update(batch=batch, Application=dict, deployment=deployment, ingress=lambda build: lambda _=None: build)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    spec = importlib.util.spec_from_file_location("cascade_serve", RAY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "cascade_serve", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of each engine call."""
    made: list[int] = []
    infer = OnnxEngine.infer

    def counted(engine: OnnxEngine, images: Pixels) -> Stage1Outputs:
        made.append(len(images))
        return infer(engine, images)

    monkeypatch.setattr(OnnxEngine, "infer", counted)
    return made


@pytest.mark.parametrize(
    ("most", "sizes", "expected"),
    [
        (4, [1, 1, 1, 1, 1], [4, 1]),
        (4, [3, 3, 1], [3, 4]),
        (8, [4, 4, 4], [8, 4]),
        (2, [2, 2], [2, 2]),
    ],
)
def test_requests_share_engine_calls_of_as_many_images_as_are_set(
    store: Store,
    publish: Publish,
    cascade_serve: Any,
    calls: list[int],
    most: int,
    sizes: list[int],
    expected: list[int],
) -> None:
    bundle = publish("a")
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (size, 3, 32, 32), np.uint8) for size in sizes]
    model = cascade_serve.BatchedModel(cascade_serve.Settings(store=store.root, max_batch=most, threads=1))
    calls.clear()

    async def scenario() -> list[dict[str, Any]]:
        return list(await asyncio.gather(*(model.infer(version_of(bundle), some) for some in images)))

    answers = asyncio.run(scenario())
    assert calls == expected
    engine = OnnxEngine(store.path(bundle) / ENGINE, threads=1)
    for some, found in zip(images, answers, strict=True):
        np.testing.assert_allclose(found["logits"], engine.infer(some).logits, atol=1e-5)
    model.close()


def test_a_batch_of_single_images_can_be_full(cascade_serve: Any, tmp_path: Path) -> None:
    for most in (16, 64):
        made = cascade_serve.app({"store": str(tmp_path), "max_batch": most})
        assert made["max_ongoing_requests"] >= most

"""A machine whose GPU is made of host memory, bundles for it and for others, and a follower that tests can look at.

Plans are built by the real TensorRT-RTX.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import engines.backends.tensorrt.engine
from engines.backends.onnxruntime import OnnxEngine
from engines.backends.registry import open_engine
from engines.backends.tensorrt.build import Plan
from engines.backends.tensorrt.cuda import Cuda
from engines.backends.tensorrt.engine import TensorRtEngine
from engines.backends.tensorrt.library import Flavour
from engines.engine import Engine
from engines.errors import BundleRefused
from engines.live.load.background_loader import EngineOptions
from engines.live.load.local_compile import LocalCompiler
from engines.live.settings import SwapSettings
from engines.live.states import State
from engines.live.swap.follower import StoreFollower
from engines.live.swap.recalibration import Recalibrate
from engines.machine.child import Child
from engines.machine.gpu import Gpu, NoGpu
from engines.spec import EngineSpec
from engines.store.bundle import Provenance, certified_sha256_of
from engines.store.file_names import ENGINE, PARAMS, SPEC
from engines.store.store import Store
from stage1.certificate.params import ScrcParams
from stage1.preprocess import PreprocessSettings
from tests.support.tensorrt import ELSEWHERE, FP32, GPU

NOW = datetime(2026, 1, 1, tzinfo=UTC)
Publish = Callable[..., str]


@dataclass
class Machine:
    """A machine with a GPU that computes what the graph of a plan does.

    Attributes:
        flavour: its TensorRT.
        host_gpu: makes what a TensorRT engine calls.
        off: added by the GPU to the logit of roadwork.
        deserialized: directories of plans that the library was shown.
        opened: engines.
        refits: graphs whose weights were put into an engine.
        takes_weights: whether the library does so.
    """

    flavour: Flavour
    host_gpu: Callable[[Path], tuple[Any, Any]]
    monkeypatch: pytest.MonkeyPatch
    off: float = 0.0
    deserialized: list[Path] = field(default_factory=list)
    opened: list[TensorRtEngine] = field(default_factory=list)
    refits: list[Path] = field(default_factory=list)
    takes_weights: bool = True

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:
        if spec.backend != "tensorrt":
            return open_engine(spec, model, threads=threads)
        cuda, library = self.host_gpu(model)
        if self.off:
            infer = library.reference.infer
            off = np.array([0.0, self.off], np.float32)
            library.reference.infer = lambda batch: dataclasses.replace(infer(batch), logits=infer(batch).logits + off)

        def deserialize(_flavour: Flavour, _content: bytes) -> tuple[str, Any, Any]:
            self.deserialized.append(compiled or model.parent)
            return "VALID", object(), library

        self.monkeypatch.setattr(engines.backends.tensorrt.engine, "Cuda", lambda: Cuda(cuda))
        self.monkeypatch.setattr(engines.backends.tensorrt.engine, "deserialize", deserialize)
        engine = TensorRtEngine(model, spec, compiled=compiled, find=lambda: GPU)
        engine.flavour = dataclasses.replace(engine.flavour, trt=self._refitting(library))
        self.opened.append(engine)
        return engine

    def _refitting(self, library: Any) -> SimpleNamespace:
        def refit_from_file(path: str) -> bool:
            self.refits.append(Path(path))
            library.reference = OnnxEngine(Path(path), threads=1)
            return self.takes_weights

        refitter = SimpleNamespace(get_missing_weights=list, refit_cuda_engine_async=lambda _: True)
        parser = SimpleNamespace(refit_from_file=refit_from_file)
        return SimpleNamespace(
            **{**vars(self.flavour.trt), "Refitter": lambda *_: refitter, "OnnxParserRefitter": lambda *_: parser}
        )


class Follower(StoreFollower):
    """A follower, and what tests look at."""

    @property
    def serving(self) -> tuple[str | None, str, int]:
        """The live bundle, the runtime that computes, and the generation."""
        status = self.status()
        return status.bundle, status.engine.partition(" ")[0], status.generation

    @property
    def state(self) -> State:
        """Of the bundle that was wanted last."""
        return self.status().history[-1].state

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that another task or thread does."""
        while not condition():
            await asyncio.sleep(0.01)

    def score(self, images: NDArray[np.uint8]) -> float:
        """Roadwork score of the first image."""
        with self.slot.lease() as lease:
            return float(lease.bundle.engine.infer(images).roadwork_score[0])


@pytest.fixture
def machine(flavour: Flavour, host_gpu: Callable[[Path], tuple[Any, Any]], monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(flavour, host_gpu, monkeypatch)


@pytest.fixture
def publish(
    store: Store,
    tmp_path: Path,
    plan_of: Callable[[Path], Plan],
    write_onnx: Callable[..., Path],
    write_bundle_files: Callable[..., Path],
    certificate: Callable[..., ScrcParams],
    provenance: Provenance,
) -> Publish:
    """Publishes a bundle for TensorRT and makes it current.

    `built` is what its plan says of the machine it is for, `off` how far the golden outputs are from the graph.
    """

    def publish_one(
        note: str,
        *,
        built: dict[str, Any] | None = None,
        refittable: bool = False,
        off: float = 0.0,
        tolerance: float = 1e-3,
        shift: float = 0.0,
        **graph: Any,
    ) -> str:
        engine = write_onnx(tmp_path / f"{note}.onnx", shift=shift, **graph)
        files = write_bundle_files(tmp_path / note, engine=engine, golden_shift=shift + off, note=note)
        plan = plan_of(files / ENGINE)
        fingerprint = plan.description.fingerprint.model_copy(update={"gpu": None} | (built or {}))
        description = plan.description.model_copy(update={"fingerprint": fingerprint, "refittable": refittable})
        dataclasses.replace(plan, description=description).write(files)
        FP32.write(files / SPEC)
        certificate(
            engine_sha256=certified_sha256_of(files, FP32), preprocess_sha256=PreprocessSettings(size_px=32).sha256
        ).write(files / PARAMS)
        bundle = store.publish(files, provenance, parity_tolerance=tolerance)
        store.activate(bundle, now=NOW)
        return bundle

    return publish_one


@pytest.fixture
def publish_plain(store: Store, publisher: Callable[[Store], Publish]) -> Publish:
    """Publishes a bundle for ONNX Runtime and makes it current."""
    return publisher(store)


@pytest.fixture
def following(store: Store, machine: Machine, tmp_path: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def follow(
        *,
        recalibrate: Recalibrate | None = None,
        find: Callable[[], Gpu | NoGpu] = lambda: GPU,
        serve_with: EngineSpec | None = None,
        trial: bool = False,
    ) -> AsyncIterator[Follower]:
        compiler = LocalCompiler(tmp_path / "workshop", find=find)
        follower = Follower(
            store,
            settings=SwapSettings(trial=trial),
            options=EngineOptions(threads=1, most=2, compiler=compiler, opens=machine.open, serve_with=serve_with),
            recalibrate=recalibrate,
        )
        await follower.start()
        try:
            yield follower
        finally:
            await follower.close()

    return follow


@pytest.fixture
def two_nights(publish: Publish, following: Callable[..., Any]) -> Callable[..., Any]:
    """Follows through two nights of engines that can take weights: the second is live, the first stands by."""

    @asynccontextmanager
    async def follow(**options: Any) -> AsyncIterator[Follower]:
        publish("night0", refittable=True)
        async with following(**options) as follower:
            publish("night1", refittable=True, shift=0.1)
            await follower.refresh()
            yield follower

    return follow


@pytest.fixture
def never_compiled(
    publish: Publish, publish_plain: Publish, following: Callable[..., Any], never_ends: Callable[[], None]
) -> Callable[[], Any]:
    """Follows a plain bundle, and the store has moved on to one whose compiling does not end."""

    @asynccontextmanager
    async def follow() -> AsyncIterator[Follower]:
        publish_plain("old")
        async with following() as follower:
            publish("foreign", built=ELSEWHERE)
            never_ends()
            yield follower

    return follow


@pytest.fixture
def held(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of what the compiler holds, and of what it left."""
    return lambda: sorted(path.name for path in (tmp_path / "workshop").glob("*") if path.name != ".lock")


@pytest.fixture
def never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on, a child does not end by itself."""
    script = tmp_path / "never"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    return lambda: monkeypatch.setattr("engines.machine.child.sys.executable", str(script))


@dataclass
class Trials:
    """Trials that take until they are released, or given up.

    Attributes:
        asked: directories of what was compiled here, None for the bundle's own.
        go: set to let them pass.
        refuses: what they say instead.
    """

    asked: list[Path | None] = field(default_factory=list)
    go: threading.Event = field(default_factory=threading.Event)
    refuses: str = ""

    def __call__(self, child: Child, _directory: Path, *, compiled: Path | None, **_: object) -> None:
        self.asked.append(compiled)
        while not self.go.wait(0.01):
            child.check()
        if self.refuses:
            raise BundleRefused(self.refuses)


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    """A trial in a real child would look for a real GPU."""
    made = Trials()
    monkeypatch.setattr("engines.live.load.background_loader.try_out", made)
    return made

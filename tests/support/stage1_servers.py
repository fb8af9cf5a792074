"""A server that computes bundles by the Open Inference Protocol, and can do it wrong, on a port of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn

from engines.backends.onnxruntime import OnnxEngine
from engines.engine import HEAD_PREFIX
from engines.errors import InferenceError
from engines.remote.bundle_version import version_of
from engines.remote.protocol_app import Arrays, protocol_app
from engines.store.file_names import ENGINE
from stage1.preprocess import Pixels, Shape
from tests.support.ports import free_port

Change = Callable[[Arrays, Pixels], Arrays]


@dataclass
class Server:
    """A model whose versions are bundles on ONNX Runtime.

    Attributes:
        changes: what it does to the outputs of a batch.
        delay_s: waits so long before each answer.
        delays: and so long before the next ones, in place of that.
        fails: it answers with an error.
        go: it answers nothing while this is not set.
        calls: batches that it was asked for, as (version, images).
        loads: times that it was told to load.
    """

    name: str = "stage1"
    platform: str = "test"
    shape: Shape = (32, 32)
    outputs: dict[str, int] = field(default_factory=lambda: {"logits": 2, "select_score": 1})
    max_batch: int = 32
    engines: dict[str, OnnxEngine] = field(default_factory=dict)
    changes: Change = lambda outputs, _: outputs
    delay_s: float = 0.0
    delays: list[float] = field(default_factory=list)
    fails: bool = False
    calls: list[tuple[str, int]] = field(default_factory=list)
    loads: int = 0
    go: threading.Event = field(default_factory=threading.Event)
    on_load: Callable[[Server], object] = lambda _: None
    url: str = ""

    def __post_init__(self) -> None:
        self.go.set()

    @property
    def versions(self) -> tuple[str, ...]:
        return tuple(self.engines)

    def hold(self, bundle: Path, version: str | None = None, engine: Path | None = None) -> str:
        """Have it compute a bundle."""
        found = version or version_of(bundle.name)
        self.engines[found] = OnnxEngine(engine or bundle / ENGINE, threads=1)
        return found

    async def infer(self, version: str, images: Pixels) -> Arrays:
        self.calls.append((version, len(images)))
        await asyncio.sleep(self.delays.pop(0) if self.delays else self.delay_s)
        while not self.go.is_set():
            await asyncio.sleep(0.005)
        if self.fails:
            raise InferenceError("out of memory")
        found = self.engines[version].infer(images)
        heads = {HEAD_PREFIX + name: values for name, values in found.heads.items()}
        return self.changes({"logits": found.logits, "select_score": found.select_score, **heads}, images)

    async def load(self) -> None:
        self.loads += 1
        self.on_load(self)


@dataclass
class Running:
    """A server that listens.

    Attributes:
        server: it.
        url: where.
    """

    server: Server
    url: str
    _uvicorn: uvicorn.Server
    _thread: threading.Thread

    def stop(self) -> None:
        """End it; its port is free then."""
        self._uvicorn.should_exit = self._uvicorn.force_exit = True
        self._thread.join()


def start(server: Server, port: int | None = None) -> Running:
    """Have it listen."""
    chosen = port or free_port()
    config = uvicorn.Config(protocol_app(server), port=chosen, log_config=None, lifespan="off", http="httptools")
    made = uvicorn.Server(config)
    thread = threading.Thread(target=made.run)
    thread.start()
    while not made.started:
        assert thread.is_alive(), f"the server does not listen on port {chosen}"
        time.sleep(0.002)
    return Running(server, f"http://127.0.0.1:{chosen}", made, thread)


@contextmanager
def running(*servers: Server) -> Iterator[list[Running]]:
    """Have all of them listen, until the block ends."""
    found = [start(server) for server in servers]
    try:
        yield found
    finally:
        for one in found:
            one.stop()


def nan(outputs: Arrays, _: Pixels) -> Arrays:
    return outputs | {"logits": np.full_like(outputs["logits"], np.nan)}

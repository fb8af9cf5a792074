"""CPU time of the parts of a request: functions of the miner, each timed by the clock of its own thread.

The time of a part is without that of the parts inside it. What no part covers is the event loop, the system calls of
sockets, threads that wake each other, and numpy's and ONNX Runtime's own threads.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

DECODING, ENGINE = "base64, decode, resize", "engine"
# Name of the part, module, function.
KNOWN = (
    ("http parse", "miner.axon.http_connection", "HttpConnection.data_received"),
    ("headers", "miner.axon.app", "decode_headers"),
    ("access", "miner.axon.access", "AccessPolicy.check"),
    ("signature", "miner.axon.proofs", "Proofs.prove"),
    ("body json", "miner.axon.wires.image_codecs", "ImageInJson.image_b64"),
    (DECODING, "miner.answering.cascade", "Cascade._decoded"),
    (ENGINE, "engines.live.batcher", "Batcher._compute"),
    ("decision", "miner.answering.cascade", "_decided"),
    ("record", "miner.answering.cascade", "Cascade._record"),
    ("journal", "miner.answering.journal", "Journal.on_answer"),
    ("log", "miner.answering.cascade", "_log"),
    ("refusal counted", "miner.axon.app", "AxonApp._count_refusal"),
    ("outcome logged", "miner.axon.app", "_log_outcome"),
    ("reply headers", "miner.axon.wires.legacy_protocol", "LegacyProtocol.reply_headers"),
    ("http reply", "miner.axon.app", "_reply"),
)
# Of these the time of each call by the wall clock as well, of so many calls.
WAITED, REMEMBERED = (DECODING, ENGINE), 10_000


class Parts:
    """Sums of CPU seconds and calls by part, and for how long the latest calls of two of them were waited for."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._waited = {name: deque[float](maxlen=REMEMBERED) for name in WAITED}
        self._threads = threading.local()

    def watch(self) -> None:
        """Put a timer around every function of `KNOWN`; for the life of the process."""
        for name, module, path in KNOWN:
            *owners, last = path.split(".")
            owner: Any = import_module(module)
            for each in owners:
                owner = getattr(owner, each)
            timer = self._around_coroutine if name == "http reply" else self._around
            setattr(owner, last, timer(name, getattr(owner, last)))

    def write(self, path: Path) -> None:
        """Write the sums, whole or not at all."""
        partial = path.with_suffix(".partial")
        waited = {name: list(each) for name, each in self._waited.items()}
        partial.write_text(json.dumps({"seconds": dict(self._seconds), "calls": dict(self._calls), "waited": waited}))
        os.replace(partial, path)  # noqa: PTH105

    def _around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            at, begun, inner = time.perf_counter(), time.thread_time(), self._enter()
            try:
                return function(*args, **options)
            finally:
                self._leave(name, begun, inner)
                if name in self._waited:
                    self._waited[name].append(time.perf_counter() - at)

        return timed

    def _around_coroutine(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Right only for one that never waits, as a reply does not while its caller reads it."""

        @functools.wraps(function)
        async def timed(*args: Any, **options: Any) -> Any:
            begun, inner = time.thread_time(), self._enter()
            try:
                return await function(*args, **options)
            finally:
                self._leave(name, begun, inner)

        return timed

    def _enter(self) -> float:
        inner = getattr(self._threads, "inner", 0.0)
        self._threads.inner = 0.0
        return float(inner)

    def _leave(self, name: str, begun: float, inner: float) -> None:
        whole = time.thread_time() - begun
        self._seconds[name] += whole - self._threads.inner
        self._calls[name] += 1
        self._threads.inner = inner + whole

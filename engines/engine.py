"""Engines: a compiled Stage-1 in this process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort

from engines.errors import BundleRefused, InferenceError
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

INPUT = "image"
OUTPUTS = ("logits", "select_score")
HEAD_PREFIX = "head."
WARM_UP_BATCHES = (1, 2)


@dataclass(frozen=True)
class EngineDescription:
    """What an engine is.

    Attributes:
        backend: name and version of the runtime.
        size_px: side of the square images it takes.
        threads: intra-op threads.
    """

    backend: str
    size_px: int
    threads: int


class Engine(Protocol):
    """Maps a batch of preprocessed images to Stage-1 outputs; safe to call from several threads."""

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """Outputs for uint8 images `(N, 3, H, W)`, N >= 1."""
        ...

    def warm_up(self) -> None:
        """Run once at each usual batch size, so that the first request is as fast as the next."""
        ...

    def close(self) -> None:
        """Free the engine; calling it afterwards is an error."""
        ...

    def describe(self) -> EngineDescription:
        """What this engine is."""
        ...


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


class OnnxEngine:
    """ONNX Runtime on the CPU, fp32: the exact reference that every other backend is compared with.

    Args:
        path: the ONNX file; input `image` uint8 `(N, 3, H, W)`, outputs `logits (N, 2)`, `select_score (N,)` and, for
            each named head, `head.<name> (N, K)`.
        threads: intra-op threads; default all usable cores.

    Raises:
        BundleRefused: the file is not an ONNX model, or its inputs and outputs are others.
    """

    def __init__(self, path: Path, *, threads: int | None = None) -> None:
        self._threads = threads or usable_cores()
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path), _session_options(self._threads), providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # as in infer
            raise BundleRefused(f"{path.name}: ONNX Runtime cannot load it: {error}") from error
        self._size_px = _checked_size(self._session, path.name)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`.

        Raises:
            stage1.errors.OutputsError: the engine returned NaN or a wrong shape.
            InferenceError: the runtime failed, or the engine is closed.
        """
        session = self._session
        if session is None:
            raise InferenceError("the engine is closed")
        try:
            logits, select_score, *heads = session.run(self._outputs, {INPUT: batch})
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise InferenceError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        named = {name.removeprefix(HEAD_PREFIX): head for name, head in zip(self._outputs[2:], heads, strict=True)}
        return Stage1Outputs(np.asarray(logits), np.asarray(select_score), named)

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        for size in WARM_UP_BATCHES:
            self.infer(np.zeros((size, 3, self._size_px, self._size_px), np.uint8))

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        return EngineDescription(f"onnxruntime {ort.__version__} cpu fp32", self._size_px, self._threads)


def _session_options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # A spinning pool burns cores that requests, Stage-2 and a swap's second engine share.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps its peak for ever, and every swap makes a new one.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    return options


def _checked_size(session: ort.InferenceSession, name: str) -> int:
    inputs, outputs = session.get_inputs(), session.get_outputs()
    found = [i.name for i in inputs], [o.name for o in outputs]
    heads = [output for output in found[1] if output.startswith(HEAD_PREFIX)]
    if found != ([INPUT], [*OUTPUTS, *heads]):
        raise BundleRefused(f"{name}: inputs and outputs are {found}, expected {([INPUT], [*OUTPUTS, *heads])}")
    kind, shape = inputs[0].type, inputs[0].shape
    if (
        kind != "tensor(uint8)"
        or len(shape) != 4
        or shape[1] != 3
        or shape[2] != shape[3]
        or not isinstance(shape[2], int)
    ):
        raise BundleRefused(f"{name}: the input is {kind} {shape}, expected tensor(uint8) [N, 3, S, S]")
    return shape[2]

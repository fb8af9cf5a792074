"""ONNX Runtime: the engine that is always there, and in fp32 on a CPU the reference of every other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort

from engines.engine import HEAD_PREFIX, INPUT, OUTPUTS, REFERENCE, EngineDescription, EngineSpec, buckets, usable_cores
from engines.errors import BundleRefused, InferenceError
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels


class OnnxEngine:
    """ONNX Runtime on the CPU, fp32: the exact reference that every other backend is compared with.

    Args:
        path: the ONNX file; input `image` uint8 `(N, 3, H, W)`, outputs `logits (N, 2)`, `select_score (N,)` and, for
            each named head, `head.<name> (N, K)`.
        spec: the reference, the only one so far.
        threads: intra-op threads; default all usable cores.

    Raises:
        BundleRefused: the file is not an ONNX model, or its inputs and outputs are others.
    """

    def __init__(self, path: Path, spec: EngineSpec = REFERENCE, *, threads: int | None = None) -> None:
        self._spec = spec
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

    def warm_up(self, most: int) -> None:
        """See `Engine.warm_up`."""
        for size in buckets(most):
            self.infer(np.zeros((size, 3, self._size_px, self._size_px), np.uint8))

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        return EngineDescription(self._spec, f"onnxruntime {ort.__version__}", self._size_px, self._threads)


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

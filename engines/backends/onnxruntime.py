"""ONNX Runtime on a CPU: the engine that is always there, and in fp32 the reference of every other."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.backend import Backend, CompileOptions
from engines.batches import in_batches, run_at_buckets
from engines.engine import INPUT, EngineDescription
from engines.errors import BundleRefused, InferenceError, Unavailable
from engines.machine.cores import usable_cores
from engines.signature import Port, checked_shape, named_outputs
from engines.spec import REFERENCE, EngineSpec, twin
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    import onnxruntime as ort
else:
    ort = without_telemetry("onnxruntime")

PROVIDER = "CPUExecutionProvider"
# It has no bf16 products.
SUPPORTED = {("cpu", "fp32"), ("cpu", "int8")}

# Whom a graph of `engines.backends.int8` names as its producer.
QUANTISER = "onnx.quantize"


class OnnxEngine:
    """ONNX Runtime on a CPU: in fp32 the exact reference of every other engine, or in int8.

    In int8 the file is a graph of `engines.backends.int8`, and images are computed one by one.

    Args:
        path: the ONNX file; input `image` uint8 `(N, 3, H, W)`, outputs `logits (N, 2)`, `select_score (N,)` and, for
            each named head, `head.<name> (N, K)`.
        spec: precision and device.
        threads: intra-op threads; default all usable cores.

    Raises:
        BundleRefused: the file is not an ONNX model, its inputs and outputs are others, or ONNX Runtime cannot do here
            what the spec says.
    """

    def __init__(self, path: Path, spec: EngineSpec = REFERENCE, *, threads: int | None = None) -> None:
        check_provider(spec)
        self._spec = spec
        self._threads = threads or usable_cores()
        try:
            session = ort.InferenceSession(str(path), _session_options(self._threads), providers=[PROVIDER])
        except Exception as error:  # as in _run
            raise BundleRefused(f"{path.name}: ONNX Runtime cannot load it: {error}") from error
        if spec.precision == "int8" and session.get_modelmeta().producer_name != QUANTISER:
            raise BundleRefused(f"{path.name}: {spec} takes a graph of engines.backends.int8, and this is another")
        inputs = [Port(port.name, port.type, tuple(port.shape)) for port in session.get_inputs()]
        self._outputs = [output.name for output in session.get_outputs()]
        self._shape = checked_shape(path.name, inputs, self._outputs, kind="tensor(uint8)")
        self._session: ort.InferenceSession | None = session
        self._details = {"provider": PROVIDER}

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`.

        Raises:
            stage1.errors.OutputsError: the engine returned NaN or a wrong shape.
            InferenceError: the runtime failed, or the engine is closed.
        """
        if self._spec.precision == "int8" and len(batch) > 1:
            # The scale of a product is taken over the whole batch: an answer would depend on who else asks.
            return in_batches(self, batch, 1)
        return self._run(batch)

    def warm_up(self, most: int) -> None:
        """See `Engine.warm_up`."""
        run_at_buckets(self, self._shape, most)

    def close(self) -> None:
        """See `Engine.close`."""
        self._session = None

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        return EngineDescription(
            self._spec, f"onnxruntime {ort.__version__}", self._shape, self._threads, self._details
        )

    def _run(self, batch: Pixels) -> Stage1Outputs:
        session = self._session
        if session is None:
            raise InferenceError("the engine is closed")
        try:
            values = session.run(self._outputs, {INPUT: batch})
        except Exception as error:  # ONNX Runtime raises a dozen unrelated types
            raise InferenceError(f"ONNX Runtime failed on a batch of shape {batch.shape}: {error}") from error
        return named_outputs(self._outputs, values, rows=len(batch))


def check_provider(spec: EngineSpec) -> str:
    """Make sure that this ONNX Runtime computes what a spec says.

    Returns:
        Its name and version.

    Raises:
        BundleRefused: it does not.
    """
    if (spec.device, spec.precision) not in SUPPORTED:
        raise BundleRefused(
            f"{spec}: ONNX Runtime computes fp32 and int8 on a CPU here; on a GPU it is the backend onnxruntime-cuda: "
            "compile the bundle for it (cascade engines compile), or set engine.serve_with"
        )
    return f"onnxruntime {ort.__version__}"


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


class OnnxRuntime(Backend):
    """ONNX Runtime, which every miner has."""

    specs = (EngineSpec(), EngineSpec(precision="int8"))
    distributions = ("onnxruntime", "onnxruntime-gpu")
    file_prefixes = ("model.int8.",)

    def check(self, spec: EngineSpec) -> str:
        """See `Backend.check`."""
        if spec.precision == "int8" and find_spec("onnx") is None:
            raise Unavailable(f"{spec}: quantising needs the package onnx: pip install '.[train]'")
        return check_provider(spec)

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> OnnxEngine:
        """See `Backend.open`."""
        path = twin(model, spec.precision)
        return OnnxEngine(path if compiled is None else compiled / path.name, spec, threads=threads)

    def compile(self, spec: EngineSpec, model: Path, into: Path, options: CompileOptions) -> None:  # noqa: ARG002
        """See `Backend.compile`."""
        if spec.precision == "int8":
            # It brings onnx, which a live miner does not need.
            from engines.backends.int8 import quantise_dynamic  # noqa: PLC0415

            quantise_dynamic(model, into / twin(model, "int8").name)


BACKEND = OnnxRuntime()

"""OpenVINO: a second engine for a CPU, in fp32, or in bf16 where the CPU multiplies it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from engines.backends.backend import Backend
from engines.batches import run_at_buckets
from engines.engine import EngineDescription
from engines.errors import BundleRefused, InferenceError, Unavailable
from engines.machine.cores import usable_cores
from engines.signature import Port, checked_shape, named_outputs
from engines.spec import EngineSpec, Precision
from stage1.outputs import Floats, Stage1Outputs
from stage1.preprocess import Pixels
from stage1.telemetry import without_telemetry

if TYPE_CHECKING:
    from openvino import CompiledModel, ConstOutput, Core, InferRequest, Model

HINTS: dict[Precision, str] = {"fp32": "f32", "bf16": "bf16"}
CPU = "CPU"


@dataclass(frozen=True)
class _Loaded:
    """A compiled graph, and the requests that no thread uses at the moment."""

    compiled: CompiledModel
    idle: deque[InferRequest] = field(default_factory=deque)

    def run(self, batch: Pixels) -> list[Floats]:
        try:
            request = self.idle.pop()
        except IndexError:
            request = self.compiled.create_infer_request()
        values = list(request.infer({0: batch}).values())
        # One that failed is not used again.
        self.idle.append(request)
        return values


class OpenVinoEngine:
    """OpenVINO on a CPU, in the precision that the spec says and never the one that OpenVINO would choose.

    Args:
        path: the ONNX file, as of `OnnxEngine`.
        spec: fp32 or bf16; the weights in the file are fp32 in either case.
        threads: intra-op threads; default all usable cores.

    Raises:
        BundleRefused: OpenVINO is not installed, the file is not an ONNX model that it takes, its inputs and outputs
            are others, or the CPU does not compute in the precision.
    """

    def __init__(self, path: Path, spec: EngineSpec, *, threads: int | None = None) -> None:
        ov, core, isa = _checked(spec)
        options = {
            "INFERENCE_PRECISION_HINT": HINTS[spec.precision],
            "INFERENCE_NUM_THREADS": threads or usable_cores(),
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # The engines of a swap would be pinned to the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            model = _read(path)
            compiled = core.compile_model(model, CPU, options)
        except Exception as error:  # its frontends' errors have nothing in common with its others
            raise BundleRefused(f"{path.name}: OpenVINO cannot load it: {_line(error)}") from error
        self._outputs = [port.get_any_name() for port in model.outputs]
        self._shape = checked_shape(path.name, [_port(port) for port in model.inputs], self._outputs, kind="u8")
        ports = [*model.inputs, *model.outputs]
        fixed = [port.get_any_name() for port in ports if not port.get_partial_shape()[0].is_dynamic]
        if fixed:
            # OpenVINO would compute on with another number of images, in memory that it does not own.
            raise BundleRefused(f"{path.name}: {', '.join(fixed)} do not take any number of images")
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != HINTS[spec.precision]:
            raise BundleRefused(f"{path.name}: OpenVINO computes in {used}, asked for {HINTS[spec.precision]}")
        used_threads = int(compiled.get_property("INFERENCE_NUM_THREADS"))
        details = {"inference_precision": used, "isa": isa}
        self._loaded: _Loaded | None = _Loaded(compiled)
        self._description = EngineDescription(spec, _named(ov), self._shape, used_threads, details)

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """See `Engine.infer`.

        Raises:
            stage1.errors.OutputsError: the engine returned NaN or a wrong shape.
            InferenceError: the runtime failed, or the engine is closed.
        """
        loaded = self._loaded
        if loaded is None:
            raise InferenceError("the engine is closed")
        # OpenVINO casts what has another type, and computes something of what has another size.
        if batch.dtype != np.uint8 or batch.shape[1:] != (3, *self._shape):
            raise InferenceError(
                f"OpenVINO failed on a batch of shape {batch.shape}: it is {batch.dtype}, expected uint8 "
                f"(N, 3, {self._shape[0]}, {self._shape[1]})"
            )
        try:
            values = loaded.run(batch)
        except RuntimeError as error:
            raise InferenceError(f"OpenVINO failed on a batch of shape {batch.shape}: {_line(error)}") from error
        return named_outputs(self._outputs, values, rows=len(batch))

    def warm_up(self, most: int) -> None:
        """See `Engine.warm_up`."""
        run_at_buckets(self, self._shape, most)

    def close(self) -> None:
        """See `Engine.close`."""
        self._loaded = None

    def describe(self) -> EngineDescription:
        """See `Engine.describe`."""
        return self._description


def check_cpu(spec: EngineSpec) -> str:
    """Make sure that OpenVINO is there and computes on this CPU what a spec says.

    Returns:
        Its name and version.

    Raises:
        BundleRefused: it does not.
    """
    return _named(_checked(spec)[0])


def _named(ov: ModuleType) -> str:
    return f"openvino {ov.__version__.partition('-')[0]}"


def _checked(spec: EngineSpec) -> tuple[ModuleType, Core, str]:
    """The module, its runtime, and the instructions that its kernels may use."""
    if spec.device != "cpu" or spec.precision not in HINTS:
        raise BundleRefused(f"{spec}: OpenVINO computes {' and '.join(HINTS)} on a CPU here")
    ov = load_openvino()
    core = _core(ov)
    isa = _instruction_set(ov, core)
    if spec.precision == "bf16" and not _multiplies_bf16(core, isa):
        raise Unavailable(
            f"{spec}: this CPU has no bf16 arithmetic that OpenVINO may use ({isa}), and without it bf16 is many "
            "times slower than fp32; set the precision to fp32"
        )
    return ov, core, isa


@cache
def _core(ov: ModuleType) -> Core:
    """One for as long as the process lives: it gives the thread that makes it another stack for signals."""
    return ov.Core()


def load_openvino() -> ModuleType:
    """The module, without its reports of use.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        return without_telemetry("openvino")
    except ImportError as error:
        raise Unavailable(f"OpenVINO is not installed ({error}): pip install '.[openvino]'") from error


def _read(path: Path) -> Model:
    """The graph, read as ONNX; OpenVINO by itself would try every format that it knows."""
    from openvino.frontend import FrontEndManager  # noqa: PLC0415

    frontend = FrontEndManager().load_by_framework("onnx")
    return frontend.convert(frontend.load(str(path)))


def _port(port: ConstOutput) -> Port:
    shape = port.get_partial_shape()
    sides = tuple("?" if side.is_dynamic else side.get_length() for side in shape)
    return Port(port.get_any_name(), port.get_element_type().to_string(), sides)


def _instruction_set(ov: ModuleType, core: Core) -> str:
    """What OpenVINO's kernels may use, in its own words."""
    number = ov.opset13.parameter([1], ov.Type.f32)
    try:
        told = core.compile_model(ov.Model([number], [number]), CPU).get_property("RUNTIME_REQUIREMENTS")
    except RuntimeError:  # a release before 2026.4
        return "unknown"
    return dict(item.partition("=")[::2] for item in str(told).split(";")).get("isa", "unknown")


def _multiplies_bf16(core: Core, isa: str) -> bool:
    # The capabilities are those of the CPU, even where the kernels were told to use less of it.
    return "BF16" in core.get_property(CPU, "OPTIMIZATION_CAPABILITIES") and "bfloat16" in isa


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


class OpenVino(Backend):
    """OpenVINO, which reads the graph itself."""

    specs = (EngineSpec(backend="openvino"), EngineSpec(backend="openvino", precision="bf16"))
    distributions = ("openvino",)

    def check(self, spec: EngineSpec) -> str:
        """See `Backend.check`."""
        return check_cpu(spec)

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> OpenVinoEngine:  # noqa: ARG002
        """See `Backend.open`."""
        return OpenVinoEngine(model, spec, threads=threads)


BACKEND = OpenVino()

"""Opens a compiled Stage-1 with the runtime that a spec names; what is not installed is only looked for when named."""

from __future__ import annotations

from pathlib import Path

from engines.backends.onnxruntime import OnnxEngine
from engines.engine import Engine
from engines.spec import EngineSpec, twin


def open_engine(spec: EngineSpec, model: Path, *, compiled: Path | None = None, threads: int | None = None) -> Engine:
    """Load an engine.

    Args:
        spec: runtime, precision and device.
        model: the fp32 graph; what else an engine needs lies beside it.
        compiled: another directory of what was compiled for TensorRT.
        threads: intra-op threads on a CPU; default all usable cores.

    Raises:
        BundleRefused: the runtime is not installed, cannot do what the spec says on this machine, or does not take the
            graph; says what to do.
    """
    if spec.backend == "onnxruntime":
        return OnnxEngine(twin(model, spec.precision), spec, threads=threads)
    if spec.backend == "openvino":
        from engines.backends.openvino import OpenVinoEngine  # noqa: PLC0415

        return OpenVinoEngine(model, spec, threads=threads)
    from engines.backends.tensorrt.engine import TensorRtEngine  # noqa: PLC0415

    return TensorRtEngine(model, spec, compiled=compiled)

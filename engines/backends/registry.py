"""What this machine can run: asked before hours are spent on training for an engine that it cannot."""

from __future__ import annotations

from importlib.util import find_spec

from engines.errors import BundleRefused, Unavailable
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.spec import EngineSpec

# In the order of preference where accuracy is the same.
KNOWN = (
    EngineSpec(),
    EngineSpec(precision="int8"),
    EngineSpec(backend="openvino"),
    EngineSpec(backend="openvino", precision="bf16"),
    EngineSpec(device="cuda"),
    EngineSpec(backend="tensorrt", precision="bf16", device="cuda"),
    EngineSpec(backend="tensorrt", device="cuda"),
)


def check_available(spec: EngineSpec, gpu: Gpu | NoGpu | None = None) -> str:
    """Make sure that an engine can be compiled and run here, without a graph.

    Args:
        spec: the engine.
        gpu: what `find_gpu` said, if it was asked already.

    Returns:
        Name and version of the runtime.

    Raises:
        BundleRefused: it cannot; says what to do.
    """
    if spec not in KNOWN:
        raise BundleRefused(f"{spec}: no engine computes so; there are {', '.join(map(str, KNOWN))}")
    if spec.device == "cuda":
        found = gpu or find_gpu()
        if isinstance(found, NoGpu):
            raise Unavailable(f"{spec}: needs a GPU, and there is none: {found.reason}")
    if spec.backend == "openvino":
        from engines.backends.openvino import check_cpu  # noqa: PLC0415

        return check_cpu(spec)
    if spec.backend == "tensorrt":
        from engines.backends.tensorrt.library import load_flavour  # noqa: PLC0415

        return str(load_flavour())
    from engines.backends.onnxruntime import check_provider  # noqa: PLC0415

    if spec.precision == "int8" and find_spec("onnx") is None:
        raise Unavailable(f"{spec}: quantising needs the package onnx: pip install '.[train]'")
    return check_provider(spec)

"""Makes of a graph what the engine of a spec needs beside it."""

from __future__ import annotations

from pathlib import Path

from engines.backends import twin
from engines.engine import EngineSpec
from engines.errors import BundleRefused


def compile_engine(spec: EngineSpec, model: Path) -> None:
    """Write the files that a spec's engine reads, beside the graph; nothing where it reads the graph itself.

    Args:
        spec: what will run it.
        model: the fp32 graph.

    Raises:
        BundleRefused: this graph cannot be compiled so.
    """
    if spec.backend == "onnxruntime" and spec.precision == "int8":
        from engines.quantising import quantise_dynamic  # noqa: PLC0415  it brings onnx, which a live miner does not need

        quantise_dynamic(model, twin(model, "int8"))
    elif spec.backend == "tensorrt":
        raise BundleRefused(f"{spec}: a plan is built by the pipeline on the machine that runs it")

"""Makes of a graph what the engine of a spec needs beside it."""

from __future__ import annotations

from pathlib import Path

from engines.backends.tensorrt.library import FlavourName
from engines.spec import EngineSpec, twin


def compile_engine(
    spec: EngineSpec,
    model: Path,
    *,
    into: Path | None = None,
    flavour: FlavourName | None = None,
    refittable: bool = False,
    timing_cache: Path | None = None,
) -> None:
    """Write the files that a spec's engine reads beside the graph; nothing where it reads the graph itself.

    Args:
        spec: what will run it.
        model: the fp32 graph; for TensorRT in another precision its twin lies beside it.
        into: directory to write them to; default beside the graph.
        flavour: which TensorRT; default the one that is installed.
        refittable: whether another night's weights can be put into a TensorRT engine; may cost speed.
        timing_cache: directory for what TensorRT measures while it builds.

    Raises:
        BundleRefused: the runtime is not installed, or this graph cannot be quantised.
        BuildFailed: TensorRT cannot compile it here.
    """
    if spec.backend == "onnxruntime" and spec.precision == "int8":
        from engines.backends.int8 import (  # noqa: PLC0415  it brings onnx, which a live miner does not need
            quantise_dynamic,
        )

        quantise_dynamic(model, (into or model.parent) / twin(model, "int8").name)
    elif spec.backend == "tensorrt":
        from engines.backends.tensorrt.build import build_plan  # noqa: PLC0415
        from engines.backends.tensorrt.library import load_flavour  # noqa: PLC0415

        plan = build_plan(
            twin(model, spec.precision), flavour=load_flavour(flavour), refit=refittable, timing_cache=timing_cache
        )
        plan.write(into or model.parent)

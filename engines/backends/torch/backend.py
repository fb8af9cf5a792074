"""Torch as a backend: for machines that have torch anyway, such as those that train the nights."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from engines.backends.backend import Backend, CompileOptions, Mismatch
from engines.backends.torch.aot_package import DESCRIPTION, Machine, PackageDescription
from engines.engine import Engine
from engines.errors import Unavailable
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.spec import EngineSpec
from stage1.artifacts import sha256_json
from stage1.errors import ArtifactError
from stage1.tolerance import TOLERANCE

COMPILERS = ("g++", "clang++", "c++")


class TorchCompiled(Backend):
    """AOTInductor: fp32 on a CPU; bf16 or fp32 on a GPU.

    Args:
        find: looks for the GPU.
    """

    specs = (
        EngineSpec(backend="torch"),
        EngineSpec(backend="torch", precision="bf16", device="cuda"),
        EngineSpec(backend="torch", device="cuda"),
    )
    distributions = ("torch", "triton")
    file_prefixes = ("engine.pt2",)
    slow_to_compile = True

    def __init__(self, find: Callable[[], Gpu | NoGpu] = find_gpu) -> None:
        self._find = find

    def check(self, spec: EngineSpec) -> str:
        """See `Backend.check`."""
        found = _version(spec)
        if find_spec("onnx") is None:
            raise Unavailable(f"{spec}: compiling needs the package onnx: pip install '.[train]'")
        if not any(map(shutil.which, (os.environ.get("CXX") or COMPILERS[0], *COMPILERS))):
            raise Unavailable(f"{spec}: torch compiles with a C++ compiler, and there is none: apt-get install g++")
        if spec.device == "cuda" and importlib.import_module("torch").version.cuda is None:
            raise Unavailable(f"{spec}: torch {found} was built without CUDA: install the build for CUDA")
        return f"torch {found}"

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:
        """See `Backend.open`."""
        _version(spec)
        from engines.backends.torch.compiled import TorchEngine  # noqa: PLC0415  it brings torch

        return TorchEngine(model, spec, compiled=compiled, threads=threads, find=self._find)

    def compile(self, spec: EngineSpec, model: Path, into: Path, options: CompileOptions) -> None:  # noqa: ARG002
        """See `Backend.compile`."""
        self.check(spec)
        from engines.backends.torch.compiled import compile_package  # noqa: PLC0415  as in open

        compile_package(spec, model, into, self._find)

    def tolerance(self, spec: EngineSpec) -> float:
        """See `Backend.tolerance`; each batch size has kernels of its own, and sums in bf16 depend on their order."""
        return 2e-2 if spec.precision == "bf16" else TOLERANCE

    def mismatch(
        self, spec: EngineSpec, bundle: Path, *, held: bool, find: Callable[[], Gpu | NoGpu]
    ) -> Mismatch | None:
        """See `Backend.mismatch`."""
        try:
            torch = _version(spec)
        except Unavailable:
            return None
        gpu = None if spec.device == "cpu" else find()
        if isinstance(gpu, NoGpu):
            return None
        here = Machine.here(torch, gpu)
        differences = [f"the bundle holds no package of {spec}"]
        if held:
            try:
                differences = PackageDescription.read(bundle / DESCRIPTION).machine.differences(here)
            except ArtifactError as error:
                differences = [str(error)]
        if not differences:
            return None
        machine = sha256_json([spec.model_dump(mode="json"), here.model_dump(mode="json")])
        return Mismatch(", ".join(differences), machine, "torch")


def _version(spec: EngineSpec) -> str:
    try:
        return version("torch")
    except PackageNotFoundError as error:
        raise Unavailable(f"{spec}: torch is not installed: pip install '.[train]'") from error


BACKEND = TorchCompiled()

"""The backends, by name; each is imported when it is asked for, so that what is not installed is missed only then."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from engines.backends.backend import Backend, CompileOptions
from engines.errors import BundleRefused, Unavailable
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.spec import EngineSpec
from engines.store.file_names import ENGINE, ENGINE_PREFIXES

if TYPE_CHECKING:
    from engines.engine import Engine

# The module of each, which ends in `BACKEND = ...`; the reference first.
BACKENDS: dict[str, str] = {
    "onnxruntime": "engines.backends.onnxruntime",
    "openvino": "engines.backends.openvino",
    "onnxruntime-cuda": "engines.backends.onnxruntime_cuda",
    "onnxruntime-rtx": "engines.backends.onnxruntime_rtx",
    "tensorrt": "engines.backends.tensorrt.backend",
    "torch": "engines.backends.torch.backend",
}


# In settings: the engine that was measured to be the fastest on this machine.
AUTO = "auto"
# What had its own name in bundles and settings of an older program.
_MOVED = EngineSpec(device="cuda")


def backend(name: str) -> Backend:
    """A backend.

    Raises:
        BundleRefused: there is none of that name.
    """
    if name not in BACKENDS:
        raise BundleRefused(_unknown(name))
    return _imported(BACKENDS[name])


def known() -> tuple[EngineSpec, ...]:
    """Every engine that this program can compile and run, somewhere: those on a CPU first."""
    found = [spec for name in BACKENDS for spec in backend(name).specs]
    return tuple(sorted(found, key=lambda spec: spec.device != "cpu"))


def slow_to_compile(spec: EngineSpec) -> bool:
    """Whether compiling an engine takes so long that nobody does it only to try it."""
    return backend(spec.backend).slow_to_compile


def check_known(spec: EngineSpec) -> None:
    """Make sure that there is such an engine, on whatever machine.

    Raises:
        BundleRefused: there is none; names those that there are.
    """
    if spec not in known():
        moved = "; ONNX Runtime on a GPU is onnxruntime-cuda" if spec == _MOVED else ""
        raise BundleRefused(f"{spec}: no engine computes so; there are {', '.join(map(str, known()))}{moved}")


def check_available(spec: EngineSpec, gpu: Gpu | NoGpu | None = None) -> str:
    """Make sure that an engine can be compiled and run here, before hours are spent on training for it.

    Args:
        spec: the engine.
        gpu: what `find_gpu` said, if it was asked already.

    Returns:
        Name and version of the runtime.

    Raises:
        BundleRefused: it cannot; says what to do.
    """
    check_known(spec)
    if spec.device == "cuda":
        found = gpu or find_gpu()
        if isinstance(found, NoGpu):
            raise Unavailable(f"{spec}: needs a GPU, and there is none: {found.reason}")
    return backend(spec.backend).check(spec)


def open_engine(spec: EngineSpec, model: Path, *, compiled: Path | None = None, threads: int | None = None) -> Engine:
    """Load an engine; see `Backend.open`.

    Args:
        spec: runtime, precision and device.
        model: the fp32 graph; what else an engine needs lies beside it.
        compiled: another directory of what was compiled.
        threads: intra-op threads on a CPU; default all usable cores.

    Raises:
        BundleRefused: the runtime is not installed, cannot do what the spec says on this machine, or does not take the
            graph; says what to do.
    """
    return backend(spec.backend).open(spec, model, compiled=compiled, threads=threads)


def compile_engine(
    spec: EngineSpec, model: Path, *, into: Path | None = None, options: CompileOptions | None = None
) -> None:
    """Write the files that a spec's engine reads beside the graph; see `Backend.compile`.

    Args:
        spec: what will run it.
        model: the fp32 graph; its twin in the precision of `Backend.graph_precision` lies beside it.
        into: directory to write them to; default beside the graph.
        options: how.

    Raises:
        BundleRefused: the runtime is not installed, or this graph cannot be compiled for it.
        BuildFailed: it cannot be compiled here.
    """
    backend(spec.backend).compile(spec, model, into or model.parent, options or CompileOptions())


def largest_engine(sizes: Iterable[tuple[str, int]], spec: EngineSpec) -> int:
    """Size of the largest engine among the files of a bundle, bytes.

    Args:
        sizes: name and size of each file.
        spec: the engine that the bundle was certified on.
    """
    files = list(sizes)
    prefixes = (ENGINE, *backend(spec.backend).file_prefixes)
    return max(sum(size for name, size in files if name.startswith(prefix)) for prefix in prefixes)


def _registered_or_auto(spec: EngineSpec) -> EngineSpec:
    if spec.backend == AUTO:
        if spec != EngineSpec(backend=AUTO):
            raise ValueError("with backend auto there is no precision and no device to choose")
        return spec
    return _registered(spec)


def _registered(spec: EngineSpec) -> EngineSpec:
    if spec.backend not in BACKENDS:
        raise ValueError(_unknown(spec.backend))
    return spec


def _unknown(name: str) -> str:
    return f"no backend is called {name!r}; there are {', '.join(BACKENDS)}"


@cache
def _imported(module: str) -> Backend:
    found: Backend = importlib.import_module(module).BACKEND
    strangers = [prefix for prefix in found.file_prefixes if not prefix.startswith(ENGINE_PREFIXES)]
    # A certificate is bound to the files of an engine by how their names begin.
    assert not strangers, f"{module} writes {strangers}, which no certificate would be bound to"
    return found


# In settings: an engine of a backend that there is.
KnownEngine = Annotated[EngineSpec, AfterValidator(_registered)]
# The same, or what `engines.live.load.engine_choice` has recorded.
KnownOrAuto = Annotated[EngineSpec, AfterValidator(_registered_or_auto)]

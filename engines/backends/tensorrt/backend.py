"""TensorRT as a backend: engines that are compiled for one GPU, driver and version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

from engines.backends.backend import Backend, CompileOptions, Mismatch
from engines.backends.tensorrt.library import Flavour, FlavourName, load_flavour
from engines.backends.tensorrt.plan import DESCRIPTION, Fingerprint, PlanDescription
from engines.engine import Engine
from engines.errors import Unavailable
from engines.machine.gpu import Gpu, NoGpu
from engines.spec import EngineSpec, Precision
from stage1.artifacts import sha256_json
from stage1.tolerance import TOLERANCE


class TensorRt(Backend):
    """Either TensorRT, in bf16 or fp32."""

    specs = (
        EngineSpec(backend="tensorrt", precision="bf16", device="cuda"),
        EngineSpec(backend="tensorrt", device="cuda"),
    )
    distributions = ("tensorrt", "tensorrt-cu13", "tensorrt-rtx")
    file_prefixes = ("model.bf16.", "engine.")

    def check(self, spec: EngineSpec) -> str:  # noqa: ARG002
        """See `Backend.check`."""
        return str(load_flavour())

    def open(self, spec: EngineSpec, model: Path, *, compiled: Path | None, threads: int | None) -> Engine:  # noqa: ARG002
        """See `Backend.open`."""
        from engines.backends.tensorrt.engine import TensorRtEngine  # noqa: PLC0415  most miners never need it

        return TensorRtEngine(model, spec, compiled=compiled)

    def compile(self, spec: EngineSpec, model: Path, into: Path, options: CompileOptions) -> None:
        """See `Backend.compile`."""
        from engines.backends.tensorrt.ladder import build_on_ladder  # noqa: PLC0415  as in open

        flavour = load_flavour(cast("FlavourName | None", options.library))
        build_on_ladder(
            spec, model, into, options, flavour, lambda: self.open(spec, model, compiled=into, threads=None)
        )

    def graph_precision(self, spec: EngineSpec) -> Precision:
        """See `Backend.graph_precision`; a strongly typed engine takes its precision from the graph."""
        return spec.precision

    def tolerance(self, spec: EngineSpec) -> float:
        """See `Backend.tolerance`; each batch size has kernels of its own, and sums in bf16 depend on their order."""
        return 2e-2 if spec.precision == "bf16" else TOLERANCE

    def mismatch(
        self, spec: EngineSpec, bundle: Path, *, held: bool, find: Callable[[], Gpu | NoGpu]
    ) -> Mismatch | None:
        """See `Backend.mismatch`."""
        built = PlanDescription.read(bundle / DESCRIPTION).fingerprint if held else None
        here = _here(built, find)
        if here is None:
            return None
        differences = [f"the bundle holds no plan of {spec}"] if built is None else built.differences(here)
        if not differences:
            return None
        machine = sha256_json([spec.model_dump(mode="json"), here.model_dump(mode="json")])
        return Mismatch(", ".join(differences), machine, here.flavour)


def _here(built: Fingerprint | None, find: Callable[[], Gpu | NoGpu]) -> Fingerprint | None:
    """This machine with the library that a plan was built by, or else with the one that is installed."""
    flavour = _installed(None if built is None else built.flavour) or _installed(None)
    gpu = None if flavour is None else find()
    if flavour is None or not isinstance(gpu, Gpu):
        return None
    return Fingerprint.here(flavour.name, flavour.version, gpu)


def _installed(name: FlavourName | None) -> Flavour | None:
    try:
        return load_flavour(name)
    except Unavailable:
        return None


BACKEND = TensorRt()

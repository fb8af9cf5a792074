"""Compiles an ONNX graph with TensorRT.

With `tensorrt_rtx` this runs without a GPU. With `tensorrt` it needs one, and has never been run by us: its calls are
checked by name against the bindings of 10.16 and 11.4.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from engines.backends.graph_facts import broken_facts
from engines.backends.tensorrt.fusion import break_fusion
from engines.backends.tensorrt.layers import (
    Layer,
    check_built,
    fused_attentions,
    layers_of_inspector,
    layers_of_log,
    products_by_type,
)
from engines.backends.tensorrt.library import Flavour
from engines.backends.tensorrt.plan import (
    DESCRIPTION,
    PLAN,
    BatchProfile,
    Fingerprint,
    PlanDescription,
    Rung,
    graph_sha256,
    precision_of,
)
from engines.engine import HEAD_PREFIX, INPUT, OUTPUTS
from engines.errors import BuildFailed
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.store.bundle import engine_sha256
from stage1.artifacts import write_atomic
from stage1.preprocess import Shape

log = structlog.get_logger(__name__)

WORKSPACE = 4 << 30
PROFILE = BatchProfile()


@dataclass(frozen=True)
class Plan:
    """A compiled engine in memory.

    Attributes:
        content: of `engine.plan`.
        description: of `engine.json`.
    """

    content: bytes
    description: PlanDescription

    def write(self, directory: Path) -> None:
        """Write both files; the description, without which nobody reads the plan, is last."""
        write_atomic(directory / PLAN, self.content)
        self.description.write(directory / DESCRIPTION)


def build_plan(
    onnx: Path,
    profile: BatchProfile = PROFILE,
    *,
    flavour: Flavour,
    rung: Rung | None = None,
    refused: tuple[str, ...] = (),
    refit: bool = False,
    timing_cache: Path | None = None,
    workspace: int = WORKSPACE,
) -> Plan:
    """Compile a graph for this machine's GPU; without a GPU for those that TensorRT-RTX supports by default.

    Args:
        onnx: the graph, in the precision that the engine is to have; weights may lie beside it.
        profile: batch sizes.
        flavour: the library.
        rung: how the engine is to compute; by default as the graph says.
        refused: rungs above it that were refused, with reasons.
        refit: whether the weights can be replaced later; may cost speed.
        timing_cache: directory for what the library measured; a second build on the same GPU takes a fraction of the
            time. Not used without a GPU, nor by TensorRT-RTX, where it has no effect and asks for a GPU.
        workspace: bytes that a layer may take on the GPU.

    Raises:
        BundleRefused: it is no graph.
        BuildFailed: the library cannot compile the graph here, with the library's own reasons; or it compiled it in
            another precision than the graph says.
    """
    forbid_known_wrong(flavour, refit=refit)
    found = find_gpu()
    if isinstance(found, NoGpu) and flavour.name == "tensorrt":
        raise BuildFailed(
            f"{flavour} builds only on the GPU that is to run the engine, and there is none: {found.reason}"
        )
    gpu = found if isinstance(found, Gpu) else None
    fingerprint = Fingerprint.here(flavour.name, flavour.version, gpu)
    keeps_times = timing_cache is not None and gpu is not None and flavour.name == "tensorrt"
    cache = timing_cache / cache_name(fingerprint) if timing_cache and keeps_times else None
    # Before minutes are spent: this is what needs the package onnx.
    graph, precision, broken = graph_sha256(onnx), precision_of(onnx), [str(fact) for fact in broken_facts(onnx)]
    if broken:
        log.warning("graph_facts_broken", graph=onnx.name, facts=broken)
    unfused = rung == "bf16 unfused"
    flavour.listing.taken()
    with flavour.errors.recorded() as lines:
        content, (height, width) = _compile(
            onnx, profile, flavour, unfused=unfused, refit=refit, cache=cache, workspace=workspace, lines=lines
        )
    layers = _layers(flavour, content, gpu)
    products = products_by_type(layers)
    check_built(products, precision, onnx.name)
    if unfused and fused_attentions(layers):
        raise BuildFailed(f"{flavour} computes attention in one kernel in spite of what was marked: {onnx.name}")
    return Plan(
        content,
        PlanDescription(
            plan_sha256=hashlib.sha256(content).hexdigest(),
            plan_size=len(content),
            fingerprint=fingerprint,
            onnx_sha256=engine_sha256(onnx),
            graph_sha256=graph,
            profile=profile,
            size_px=height,
            width_px=None if width == height else width,
            precision=precision,
            refittable=refit,
            rung=rung or ("fp32" if precision == "fp32" else "bf16"),
            refused=refused,
            products=products,
            broken_facts=tuple(broken),
        ),
    )


def forbid_known_wrong(flavour: Flavour, *, refit: bool) -> None:
    """Refuse what is known to compute other numbers than the graph.

    Raises:
        BuildFailed: it is.
    """
    if refit and flavour.name == "tensorrt" and flavour.version.startswith("11.3."):
        raise BuildFailed(f"{flavour} loses biases in engines that can be refitted: use 11.4, or build without refit")


def cache_name(fingerprint: Fingerprint) -> str:
    """File name of a timing cache: measurements are true of one GPU and one version of the library."""
    parts = (fingerprint.flavour, fingerprint.version, fingerprint.gpu, fingerprint.compute_capability)
    return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(str(part) for part in parts)) + ".timing"


def _compile(
    onnx: Path,
    profile: BatchProfile,
    flavour: Flavour,
    *,
    unfused: bool,
    refit: bool,
    cache: Path | None,
    workspace: int,
    lines: list[str],
) -> tuple[bytes, Shape]:
    trt = flavour.trt
    builder = trt.Builder(flavour.logger)
    # Without it, 10.x chooses precisions by itself; 11 knows nothing else, and may drop the name.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    shape = _parse(onnx, network, flavour, lines)
    if unfused:
        break_fusion(network, flavour)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
    # On by default: products of fp32 with a mantissa of ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    # The types of layers are in an engine's own account, and in the log, only of one that was built so.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    shapes = builder.create_optimization_profile()
    shapes.set_shape(INPUT, *((count, 3, *shape) for count in (profile.least, profile.best, profile.most)))
    if config.add_optimization_profile(shapes) < 0:
        raise BuildFailed(f"{flavour} does not take batches of {profile.least} to {profile.most}: {'; '.join(lines)}")
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    timing = _timing(config, cache) if cache is not None else None
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"{flavour} cannot compile {onnx.name}: {'; '.join(lines) or 'it does not say why'}")
    if cache is not None and timing is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(cache, bytes(timing.serialize()))
    return bytes(plan), shape


def _layers(flavour: Flavour, content: bytes, gpu: Gpu | None) -> list[Layer]:
    """What was built: as the engine's inspector tells it on a GPU, and otherwise as the log of the build did."""
    listed = layers_of_log(flavour.listing.taken())
    if gpu is None:
        return listed
    trt = flavour.trt
    runtime = trt.Runtime(flavour.logger)
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        return listed
    inspector = engine.create_engine_inspector()
    told = layers_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    # The youngest first.
    del inspector, engine, runtime
    return told or listed


def _timing(config: Any, cache: Path) -> Any:  # noqa: ANN401  the libraries have no types
    """What was measured before, or an empty cache where the library does not take that; None if it keeps none here."""
    for measured in (cache.read_bytes() if cache.exists() else b"", b""):
        timing = config.create_timing_cache(measured)
        if timing is not None and config.set_timing_cache(timing, ignore_mismatch=False):
            return timing
    return None


def _parse(onnx: Path, network: Any, flavour: Flavour, lines: list[str]) -> Shape:  # noqa: ANN401
    """Fill the network and check that it is a Stage-1; returns height and width of the images."""
    trt = flavour.trt
    parser = trt.OnnxParser(network, flavour.logger)
    # From the file and not from its bytes: weights beside it are found by its path.
    if not parser.parse_from_file(str(onnx)):
        said = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise BuildFailed(f"{flavour} cannot parse {onnx.name}: {'; '.join(said or lines)}")
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    found = [(tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in inputs]
    shape = found[0][1] if found else ()
    if len(shape) != 4 or min(shape[2:]) < 1 or found != [(INPUT, (-1, 3, *shape[2:]), trt.DataType.UINT8)]:
        raise BuildFailed(f"{onnx.name}: the input is {found}, expected {INPUT} uint8 [N, 3, H, W]")
    names = [tensor.name for tensor in outputs]
    heads = [name for name in names if name.startswith(HEAD_PREFIX)]
    if names != [*OUTPUTS, *heads] or any(tensor.dtype != trt.DataType.FLOAT for tensor in outputs):
        raise BuildFailed(f"{onnx.name}: outputs are {names}, expected {[*OUTPUTS, *heads]}, each in fp32")
    return int(shape[2]), int(shape[3])

"""A compiled TensorRT engine on disk, and the checks that need neither a GPU nor TensorRT.

`engine.plan` holds code that will be run: it is read only after its hash agreed with `engine.json`. Both lie beside the
graph they were built from, so that another GPU can have its own.
"""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from engines.backends.tensorrt.library import FlavourName
from engines.errors import BundleRefused
from engines.machine.gpu import Gpu
from engines.spec import EngineSpec, Precision, twin
from engines.store.bundle import engine_sha256
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError
from stage1.preprocess import Shape

PLAN = "engine.plan"
DESCRIPTION = "engine.json"
# How an engine computes: as its graph says, without the kernel that computes a whole attention, or in fp32.
Rung = Literal["bf16", "bf16 unfused", "fp32"]


class Fingerprint(BaseModel):
    """What a plan was built by and for; it runs on nothing else.

    Attributes:
        flavour: the library.
        version: its four numbers.
        platform: operating system and processor.
        gpu: name of the GPU; None for a plan that was built without one, which only `tensorrt_rtx` can.
        compute_capability: of that GPU.
        driver_major: first number of the newest CUDA that its driver knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    flavour: FlavourName
    version: str
    platform: str
    gpu: str | None
    compute_capability: str | None
    driver_major: int | None

    @classmethod
    def here(cls, flavour: FlavourName, version: str, gpu: Gpu | None) -> Self:
        """That of this machine."""
        return cls(
            flavour=flavour,
            version=version,
            platform=sysconfig.get_platform(),
            gpu=gpu.name if gpu else None,
            compute_capability=gpu.compute_capability if gpu else None,
            driver_major=gpu.driver_major if gpu else None,
        )

    def differences(self, here: Self) -> list[str]:
        """What keeps a plan with this fingerprint from running `here`; without a GPU on either side it is not compared.

        Args:
            here: fingerprint of the machine that would run it.
        """
        names = ["flavour", "version", "platform"]
        if self.gpu is not None and here.gpu is not None:
            names += ["gpu", "compute_capability", "driver_major"]
        built, found = self.model_dump(), here.model_dump()
        return [f"{name} {built[name]}, here {found[name]}" for name in names if built[name] != found[name]]


class BatchProfile(BaseModel):
    """Batch sizes that a plan takes, and the one it is fastest at.

    Never of single images alone: where the largest batch is 1, TensorRT may fuse the products that share a norm, such
    as queries, keys and values, and computes them wrong (NVIDIA/TensorRT-Edge-LLM issue 105).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    least: int = Field(default=1, ge=1)
    best: int = 8
    most: int = 32

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.least <= self.best <= self.most:
            raise ValueError("a profile needs least <= best <= most")
        if self.most == 1:
            raise ValueError("a profile of single images alone is known to be computed wrong: let it take two")
        return self


class PlanDescription(Artifact):
    """`engine.json`.

    Attributes:
        plan_sha256: hash of `engine.plan`.
        plan_size: its size in bytes.
        fingerprint: what it runs on.
        onnx_sha256: hash of the graph with its weights (`engine_sha256`).
        graph_sha256: hash of the graph without its weights.
        profile: batch sizes.
        size_px: height of the images.
        width_px: their width; None in the file of one for squares.
        precision: as the graph says.
        refittable: whether its weights can be replaced.
        rung: how it computes; None in the file of an older program, which had one way.
        refused: rungs above it, and why each was refused on its golden images or by the library.
        products: layers that multiply, by the type that they were built in; empty where the library does not tell.
        broken_facts: what of its graph is known to be computed wrong or slowly.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    plan_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    plan_size: int = Field(gt=0)
    fingerprint: Fingerprint
    onnx_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    graph_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    profile: BatchProfile
    size_px: int = Field(gt=0)
    width_px: int | None = Field(default=None, gt=0, exclude_if=lambda width: width is None)
    precision: Precision
    refittable: bool = False
    rung: Rung | None = Field(default=None, exclude_if=lambda rung: rung is None)
    refused: tuple[str, ...] = Field(default=(), exclude_if=lambda told: not told)
    products: dict[str, int] = Field(default_factory=dict, exclude_if=lambda told: not told)
    broken_facts: tuple[str, ...] = Field(default=(), exclude_if=lambda told: not told)

    @property
    def shape(self) -> Shape:
        """Height and width of the images, px."""
        return self.size_px, self.size_px if self.width_px is None else self.width_px


def read_plan(model: Path, spec: EngineSpec, compiled: Path | None = None) -> tuple[PlanDescription, bytes]:
    """Read a plan that belongs to a graph, byte by byte as it was built.

    Args:
        model: the reference graph.
        spec: what is asked for.
        compiled: directory of the plan; default beside the graph.

    Raises:
        BundleRefused: a file is missing or changed, or it is the plan of another graph or precision.
    """
    try:
        description = PlanDescription.read((compiled or model.parent) / DESCRIPTION)
        plan = ((compiled or model.parent) / PLAN).read_bytes()
    except ArtifactError as error:
        raise BundleRefused(str(error)) from error
    except OSError as error:
        raise BundleRefused(f"{PLAN} cannot be read: {error.strerror or error}") from error
    if len(plan) != description.plan_size or hashlib.sha256(plan).hexdigest() != description.plan_sha256:
        raise BundleRefused(f"{PLAN} is not the file that {DESCRIPTION} describes")
    # One that stepped down says so itself, and its certificate or its golden images are those of fp32.
    if description.precision != spec.precision and not (description.rung == "fp32" and description.refused):
        raise BundleRefused(f"{PLAN} computes in {description.precision}, asked for is {spec.precision}")
    source = twin(model, description.precision)
    try:
        found = engine_sha256(source)
    except OSError as error:
        raise BundleRefused(f"{source.name}, which {PLAN} is built from, cannot be read: {error.strerror}") from error
    if found != description.onnx_sha256:
        raise BundleRefused(f"{PLAN} is built from another graph than {source.name}")
    return description, plan


def read_graph(path: Path) -> Any:  # noqa: ANN401  onnx has no types
    """The graph of an ONNX file, without the weights that lie beside it.

    Raises:
        BundleRefused: it cannot be read, or is not ONNX.
    """
    # Not part of what a live miner installs, and a plan can be run without it.
    import onnx  # noqa: PLC0415
    from google.protobuf.message import DecodeError  # noqa: PLC0415

    try:
        return onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BundleRefused(f"{path.name} is not an ONNX graph: {error}") from error


def graph_sha256(path: Path) -> str:
    """Hash of a graph without its weights: two graphs share it if one's weights can be put into the other's engine.

    Names, shapes and types of all weights count; integers, which are shapes and axes and no weights, count with their
    values.

    Args:
        path: an ONNX file; weights beside it are not read.

    Raises:
        BundleRefused: it cannot be read, or is not ONNX.
    """
    import onnx  # noqa: PLC0415

    model = read_graph(path)
    weights = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
    for tensor in model.graph.initializer:
        if tensor.data_type in weights:
            kept = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
            tensor.CopyFrom(kept)
    # Exporters write stack traces, with the paths of the machine, beside each node.
    model.ClearField("metadata_props")
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def precision_of(path: Path) -> Precision:
    """What a strongly typed engine of this graph computes in.

    Args:
        path: an ONNX file; weights beside it are not read.
    """
    import onnx  # noqa: PLC0415

    graph = read_graph(path).graph
    if any(node.op_type == "DequantizeLinear" for node in graph.node):
        return "int8"
    return "bf16" if any(tensor.data_type == onnx.TensorProto.BFLOAT16 for tensor in graph.initializer) else "fp32"

"""What AOTInductor compiled, on disk: a shared library for one machine, and what says so.

`engine.pt2` holds code that will be run: it is loaded only after its hash agreed with `engine.pt2.json`.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from engines.errors import BundleRefused
from engines.machine.cores import instructions
from engines.machine.gpu import Gpu
from engines.spec import EngineSpec
from engines.store.bundle import engine_sha256
from stage1.artifacts import Artifact, sha256_file
from stage1.errors import ArtifactError
from stage1.preprocess import Shape

PACKAGE = "engine.pt2"
DESCRIPTION = "engine.pt2.json"


class Machine(BaseModel):
    """What a package was compiled by and for; it runs on nothing else.

    Attributes:
        torch: its version.
        platform: operating system and processor.
        cpu: hash of the instructions that the CPU has, because the compiler uses all of them.
        gpu: name and compute capability of the GPU; None for a CPU.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    torch: str
    platform: str
    cpu: str
    gpu: str | None

    @classmethod
    def here(cls, torch: str, gpu: Gpu | None) -> Self:
        """This one."""
        named = None if gpu is None else f"{gpu.name}, {gpu.compute_capability}"
        return cls(torch=torch, platform=f"{platform.system()}-{platform.machine()}", cpu=instructions(), gpu=named)

    def differences(self, here: Self) -> list[str]:
        """What keeps a package from running `here`."""
        built, found = self.model_dump(), here.model_dump()
        return [f"{name} {built[name]}, here {found[name]}" for name in built if built[name] != found[name]]


class PackageDescription(Artifact):
    """`engine.pt2.json`.

    Attributes:
        package_sha256: hash of `engine.pt2`.
        machine: what it runs on.
        spec: what it computes.
        onnx_sha256: hash of the graph with its weights.
        size_px: height of the images.
        width_px: their width.
        outputs: names, in order.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    package_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    machine: Machine
    spec: EngineSpec
    onnx_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_px: int = Field(gt=0)
    width_px: int = Field(gt=0)
    outputs: tuple[str, ...] = Field(min_length=2)

    @property
    def shape(self) -> Shape:
        """Height and width of the images, px."""
        return self.size_px, self.width_px


def describe_package(
    into: Path, spec: EngineSpec, model: Path, machine: Machine, shape: Shape, outputs: Sequence[str]
) -> None:
    """Write `engine.pt2.json` beside the package that was made.

    Args:
        into: directory of the package.
        spec: what it computes.
        model: the fp32 graph that it was compiled from.
        machine: what it runs on.
        shape: height and width of the images, px.
        outputs: names, in order.
    """
    PackageDescription(
        package_sha256=sha256_file(into / PACKAGE),
        machine=machine,
        spec=spec,
        onnx_sha256=engine_sha256(model),
        size_px=shape[0],
        width_px=shape[1],
        outputs=tuple(outputs),
    ).write(into / DESCRIPTION)


def read_package(model: Path, spec: EngineSpec, compiled: Path | None) -> tuple[PackageDescription, Path]:
    """The description of a package that belongs to a graph, and where the package is.

    Args:
        model: the fp32 graph.
        spec: what is asked for.
        compiled: directory of the package; default beside the graph.

    Raises:
        BundleRefused: a file is missing or changed, or it is the package of another graph or engine.
    """
    home = compiled or model.parent
    try:
        described = PackageDescription.read(home / DESCRIPTION)
        digest = sha256_file(home / PACKAGE)
    except ArtifactError as error:
        raise BundleRefused(str(error)) from error
    except OSError as error:
        raise BundleRefused(f"{PACKAGE} cannot be read: {error.strerror or error}") from error
    if digest != described.package_sha256:
        raise BundleRefused(f"{PACKAGE} is not the file that {DESCRIPTION} describes")
    if described.spec != spec:
        raise BundleRefused(f"{PACKAGE} is compiled for {described.spec}, asked for is {spec}")
    if described.onnx_sha256 != engine_sha256(model):
        raise BundleRefused(f"{PACKAGE} is compiled from another graph than {model.name}")
    return described, home / PACKAGE

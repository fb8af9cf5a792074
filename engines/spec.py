"""Which runtime computes a Stage-1, where, and how exactly."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from stage1.artifacts import Artifact

Precision = Literal["fp32", "bf16", "int8"]
Device = Literal["cpu", "cuda"]


class EngineSpec(Artifact):
    """`spec.json`: which runtime computes a Stage-1, where, and how exactly; part of what a certificate is true of.

    Attributes:
        backend: name of the runtime, one of `engines.backends.registry.BACKENDS`.
        precision: of the matrix products; weights and outputs of the graph stay fp32.
        device: where it runs.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    backend: str = Field(default="onnxruntime", pattern=r"^[a-z][a-z0-9_-]*$")
    precision: Precision = "fp32"
    device: Device = "cpu"

    def __str__(self) -> str:
        return f"{self.backend} {self.device} {self.precision}"


# What every bundle can be run on, and what every other engine is compared with.
REFERENCE = EngineSpec()


def twin(model: Path, precision: Precision) -> Path:
    """The graph of another precision that lies beside a graph.

    Args:
        model: the fp32 graph.
        precision: of the other one.
    """
    return model if precision == "fp32" else model.with_suffix(f".{precision}.onnx")

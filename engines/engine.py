"""What an engine is: a compiled Stage-1 in this process, and what can compile and run one."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from stage1.artifacts import Artifact
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels

INPUT = "image"
OUTPUTS = ("logits", "select_score")
HEAD_PREFIX = "head."
# Batch sizes that engines are warmed up, checked and captured at. A runtime that takes any size equally well runs what
# lies between as it is.
BUCKETS = (1, 2, 4, 8, 16, 32)

Backend = Literal["onnxruntime", "openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "int8"]
Device = Literal["cpu", "cuda"]


class EngineSpec(Artifact):
    """`spec.json`: which runtime computes a Stage-1, where, and how exactly; part of what a certificate is true of.

    Attributes:
        backend: the runtime.
        precision: of the matrix products; weights and outputs of the graph stay fp32.
        device: where it runs.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    backend: Backend = "onnxruntime"
    precision: Precision = "fp32"
    device: Device = "cpu"

    def __str__(self) -> str:
        return f"{self.backend} {self.device} {self.precision}"


# What every bundle can be run on, and what every other engine is compared with.
REFERENCE = EngineSpec()


@dataclass(frozen=True)
class EngineDescription:
    """What an engine is.

    Attributes:
        spec: what was asked for.
        runtime: name and version of the runtime.
        size_px: side of the square images it takes.
        threads: intra-op threads on a CPU.
        details: what else decides its numbers or its speed, as the runtime itself tells it.
    """

    spec: EngineSpec
    runtime: str
    size_px: int
    threads: int
    details: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.runtime} {self.spec.device} {self.spec.precision}"


class Engine(Protocol):
    """Maps a batch of preprocessed images to Stage-1 outputs; safe to call from several threads."""

    def infer(self, batch: Pixels) -> Stage1Outputs:
        """Outputs for uint8 images `(N, 3, H, W)`, N >= 1."""
        ...

    def warm_up(self, most: int) -> None:
        """Run once at each bucket up to `most` images, so that the first request is as fast as the next."""
        ...

    def close(self) -> None:
        """Free the engine; calling it afterwards is an error."""
        ...

    def describe(self) -> EngineDescription:
        """What this engine is."""
        ...


@runtime_checkable
class Refittable(Engine, Protocol):
    """An engine that another night's weights can be put into, in place of loading another one."""

    def takes(self, model: Path) -> bool:
        """Whether the weights of a graph fit into it: names, shapes and types are those of its own graph.

        Args:
            model: the fp32 graph; its twins and the plan of its bundle lie beside it.
        """
        ...

    def refit(self, model: Path) -> None:
        """Replace all weights; nobody may be using the engine. After an error it is closed.

        Args:
            model: the fp32 graph; its twins lie beside it.

        Raises:
            BundleRefused: it does not take the weights.
            InferenceError: it is in use or closed, or the device failed.
        """
        ...


def twin(model: Path, precision: Precision) -> Path:
    """The graph of another precision that lies beside a graph.

    Args:
        model: the fp32 graph.
        precision: of the other one.
    """
    return model if precision == "fp32" else model.with_suffix(f".{precision}.onnx")


def in_batches(engine: Engine, images: Pixels, size: int) -> Stage1Outputs:
    """Outputs of an engine for any number of images, in batches of one size; the last one may be smaller.

    Args:
        engine: any.
        images: uint8 `(N, 3, S, S)`, N at least one.
        size: images of a batch.
    """
    starts = range(0, len(images), size)
    return Stage1Outputs.concatenate([engine.infer(images[start : start + size]) for start in starts])


def buckets(most: int) -> tuple[int, ...]:
    """Batch sizes to try for batches of at most `most` images: the buckets below, and `most` itself."""
    return (*(size for size in BUCKETS if size < most), most)


def run_at_buckets(engine: Engine, size_px: int, most: int) -> None:
    """Run an engine once at each bucket up to `most` images.

    Args:
        engine: any.
        size_px: side of its images.
        most: largest batch.
    """
    for size in buckets(most):
        engine.infer(np.zeros((size, 3, size_px, size_px), np.uint8))


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))

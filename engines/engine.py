"""What an engine is: a compiled Stage-1 in this process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from engines.spec import EngineSpec
from stage1.outputs import Stage1Outputs
from stage1.preprocess import Pixels, Shape

INPUT = "image"
OUTPUTS = ("logits", "select_score")
HEAD_PREFIX = "head."


@dataclass(frozen=True)
class EngineDescription:
    """What an engine is.

    Attributes:
        spec: what was asked for.
        runtime: name and version of the runtime.
        shape: height and width of the images that it takes, px.
        threads: intra-op threads on a CPU.
        details: what else decides its numbers or its speed, as the runtime itself tells it.
        rung: how it computes where that is not what was asked for, because that was refused; empty otherwise.
    """

    spec: EngineSpec
    runtime: str
    shape: Shape
    threads: int
    details: dict[str, str] = field(default_factory=dict)
    rung: str = ""

    def __str__(self) -> str:
        stepped_down = f", stepped down to {self.rung}" if self.rung else ""
        return f"{self.runtime} {self.spec.device} {self.spec.precision}{stepped_down}"


ServerState = Literal["up", "late", "lost", "refused"]


@dataclass(frozen=True)
class ServerStatus:
    """A server that computes an engine for this process.

    Attributes:
        url: of it.
        state: whether it may answer, was too slow just now, did not answer, or answered otherwise than the bundle's
            engine.
        in_flight: batches that are under way.
        batches: that it has computed.
        failures: times that it lost its permission to answer.
        reason: why it may not answer; empty if it may.
        platform: what computes there, as it says.
    """

    url: str
    state: ServerState
    in_flight: int
    batches: int
    failures: int
    reason: str
    platform: str


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


@runtime_checkable
class ServedElsewhere(Engine, Protocol):
    """An engine that servers compute."""

    @property
    def servers(self) -> tuple[ServerStatus, ...]:
        """How each of them stands."""
        ...

    @property
    def own_batches(self) -> int:
        """Batches that this process had to compute itself."""
        ...

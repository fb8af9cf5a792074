"""`proof.json`: what an engine computed on a machine, how fast, and what the machine is; sealed by a hash."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from engines.machine.gpu import Gpu
from engines.spec import EngineSpec
from stage1.artifacts import Artifact, sha256_json
from stage1.errors import ArtifactError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Machine(_Part):
    """Where it ran; nothing in it names a person, a host or a directory.

    Attributes:
        processor: as the kernel names it.
        instructions: of those that engines choose by.
        cores: that the process may use.
        memory_bytes: of the machine.
        system: operating system and its version.
        gpu: None if there is none that can be used.
        driver: version of the GPU's driver; empty if it does not tell.
        versions: of Python and of the packages that decide numbers or speed.
    """

    processor: str
    instructions: tuple[str, ...]
    cores: int
    memory_bytes: int
    system: str
    gpu: Gpu | None
    driver: str
    versions: dict[str, str]


class Agreement(_Part):
    """Golden images at one size of batch.

    Attributes:
        batch: images of a call.
        images: that were computed.
        logits: largest difference of a logit from the stored one; None if there were no numbers to compare.
        select_score: of a selection score, likewise.
        heads: of each named head.
        flips: images that the certified rule decides otherwise.
        error: why there were no numbers; empty if there were.
    """

    batch: int
    images: int
    logits: float | None = None
    select_score: float | None = None
    heads: dict[str, float] = Field(default_factory=dict)
    flips: int | None = None
    error: str = ""

    @property
    def worst(self) -> float | None:
        """Largest difference of any output; None if there were no numbers."""
        found = [one for one in (self.logits, self.select_score, *self.heads.values()) if one is not None]
        return max(found, default=None)


class Speed(_Part):
    """Calls of one size of batch.

    Attributes:
        batch: images of a call.
        calls: that were timed; 0 where the engine fails on such a batch, and then there are no times.
        p50_ms: median.
        p99_ms: the 99th percentile.
        images_per_s: of the median call.
    """

    batch: int
    calls: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    images_per_s: float | None = None


class Memory(_Part):
    """Of the process, and of the GPU if there is one.

    Attributes:
        before_bytes: resident before the engine was loaded.
        loaded_bytes: when it was loaded and warm.
        peak_bytes: the most of the whole proof.
        after_bytes: when the engine was closed.
        gpu_bytes: that the loaded engine takes on the GPU; None where there is none, or another process changed it.
    """

    before_bytes: int
    loaded_bytes: int
    peak_bytes: int
    after_bytes: int
    gpu_bytes: int | None


class Proof(Artifact):
    """The file.

    Attributes:
        bundle: id of the bundle.
        program: version of this program.
        at: UTC, ISO 8601.
        spec: the engine.
        runtime: name and version of what computed.
        rung: how it computed where that is not what was asked for; empty otherwise.
        details: what else the runtime tells of itself.
        image: channels, height and width of the images, px.
        tolerance: largest difference that the bundle accepts.
        limits: largest difference that is accepted of the logits, the selection score and each named head, from
            `engines.live.load.golden_check.limits`; empty in a proof of a program that held all to the tolerance.
        load_s: seconds to open the engine and to warm it up.
        machine: where.
        agreement: at every size of batch.
        speed: at every size of batch.
        memory: in bytes.
        seal: hash of everything else: a file that was changed by hand or on its way is known by it. It does not say
            who made it.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    bundle: str = Field(pattern=r"^[0-9a-f]{16}$")
    program: str
    at: str
    spec: EngineSpec
    runtime: str
    rung: str = ""
    details: dict[str, str] = Field(default_factory=dict)
    image: tuple[int, int, int]
    tolerance: float
    limits: tuple[float, ...] = ()
    load_s: float
    machine: Machine
    agreement: tuple[Agreement, ...]
    speed: tuple[Speed, ...]
    memory: Memory
    seal: str = ""

    @property
    def agrees(self) -> bool:
        """Whether every golden image came back within the limits, at every size of batch."""
        return all(self._within(one) for one in self.agreement)

    def sealed(self) -> Self:
        """The same with its seal."""
        return self.model_copy(update={"seal": self._hash()})

    @classmethod
    def read_sealed(cls, path: Path) -> Self:
        """Read a file, and make sure that it is as it was written.

        Raises:
            ArtifactError: it cannot be read, is no proof, or was changed.
        """
        found = cls.read(path)
        if found.seal != found._hash():  # noqa: SLF001  its own
            raise ArtifactError(f"{path}: was changed after it was written: its seal does not fit")
        return found

    def _within(self, found: Agreement) -> bool:
        apart = [found.logits, found.select_score, *found.heads.values()]
        limits = self.limits or (self.tolerance,) * len(apart)
        return len(limits) == len(apart) and all(
            one is not None and one <= limit for one, limit in zip(apart, limits, strict=True)
        )

    def _hash(self) -> str:
        return sha256_json(self.model_dump(mode="json", exclude={"seal"} | (set() if self.limits else {"limits"})))

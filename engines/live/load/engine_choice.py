"""The engine that `auto` stands for: the fastest of this machine that says what a bundle's golden images say.

It is measured by `cascade engines bench --record` and kept in the store, and not measured again at each start: a
machine that is busy once would serve with another engine from then on. A measurement is of one machine, as it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import structlog
from pydantic import BaseModel, ConfigDict, Field

from engines.backends.registry import BACKENDS, backend
from engines.machine.cores import instructions, usable_cores
from engines.machine.gpu import Gpu, NoGpu, find_gpu
from engines.machine.packages import versions_of
from engines.spec import REFERENCE, EngineSpec
from stage1.artifacts import Artifact
from stage1.errors import ArtifactError

RECORD = "engine_choice.json"
# An engine has to be so much faster than the reference: less is noise, and the reference is what was certified.
FASTER = 1.1

log = structlog.get_logger(__name__)


class Tried(BaseModel):
    """An engine that was measured.

    Attributes:
        engine: which.
        seconds: median of a call with one image; None if it does not run here.
        reason: why it may not be chosen; empty if it may.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: EngineSpec
    seconds: float | None = Field(default=None, gt=0)
    reason: str = ""


class EngineChoice(Artifact):
    """`engine_choice.json` of a store.

    Attributes:
        machine: from `machine_key`.
        bundle: whose golden images decided.
        measured_at: UTC, ISO 8601.
        chosen: what `auto` stands for.
        tried: every engine, with the reason why it was not.
    """

    SCHEMA_VERSION: ClassVar[int] = 1

    machine: str = Field(pattern=r"^[0-9a-f]{16}$")
    bundle: str
    measured_at: str
    chosen: EngineSpec
    tried: tuple[Tried, ...]


def machine_key(gpu: Gpu | NoGpu) -> str:
    """Hash of what decides how fast engines are here: the CPU and its cores, the GPU and its driver, and the runtimes.

    Args:
        gpu: from `find_gpu`.
    """
    names = sorted({name for backend_name in BACKENDS for name in backend(backend_name).distributions})
    card = gpu.model_dump_json(exclude={"free_bytes"}) if isinstance(gpu, Gpu) else ""
    parts = [instructions(), str(usable_cores()), card, str(versions_of(names))]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def chosen(tried: Sequence[Tried]) -> EngineSpec:
    """The fastest that may be chosen, if it is faster than the reference by `FASTER`; the reference otherwise.

    Args:
        tried: with the reference among them.
    """
    known = next((one.seconds for one in tried if one.engine == REFERENCE), None)
    fit = [(one.seconds, one.engine) for one in tried if one.seconds is not None and not one.reason]
    if not fit:
        return REFERENCE
    seconds, engine = min(fit, key=lambda pair: pair[0])
    return engine if known is None or seconds * FASTER <= known else REFERENCE


def recorded(root: Path, find: Callable[[], Gpu | NoGpu] = find_gpu) -> EngineSpec | None:
    """What was chosen on this machine as it is now; None where nobody measured it, or something has changed since.

    Args:
        root: of the store.
        find: looks for the GPU.
    """
    if not (root / RECORD).exists():
        log.warning("engine_not_measured", store=str(root), advice="run: cascade engines bench BUNDLE --record")
        return None
    try:
        choice = EngineChoice.read(root / RECORD)
    except ArtifactError as error:
        log.warning("engine_choice_unreadable", reason=str(error))
        return None
    if choice.machine != machine_key(find()):
        log.warning("engine_measured_elsewhere", measured_at=choice.measured_at, engine=str(choice.chosen))
        return None
    log.info("engine_chosen", engine=str(choice.chosen), measured_at=choice.measured_at)
    return choice.chosen


def serving_engine(wanted: EngineSpec | Literal["auto"] | None, root: Path) -> EngineSpec | None:
    """The engine that is to serve bundles of others; None for those that they were certified on.

    Args:
        wanted: `engine.serve_with`.
        root: of the store.
    """
    return recorded(root) if isinstance(wanted, str) else wanted

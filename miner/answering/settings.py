"""Settings of Stage-1 in the miner's process."""

from __future__ import annotations

from pydantic import Field

from engines.backends.registry import KnownEngine
from engines.live.settings import BatchSettings, SwapSettings
from stage1.settings import Section


class EngineSettings(Section):
    """Stage-1 in this process.

    Attributes:
        threads: intra-op threads; None for all cores.
        workers: images that are decoded at a time.
        serve_with: another engine than those that bundles were certified on, if the golden images of each say that it
            decides the same; None for those.
        batch: how requests that come together share engine calls.
        swap: how bundles are replaced.
        fallback_probability: answered if Stage-1 itself fails or is late; one half counts as no roadwork.
    """

    threads: int | None = Field(default=None, ge=1)
    workers: int = Field(default=2, ge=1)
    serve_with: KnownEngine | None = None
    batch: BatchSettings = BatchSettings()
    swap: SwapSettings = SwapSettings()
    fallback_probability: float = Field(default=0.5, ge=0, le=1)

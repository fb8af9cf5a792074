"""Settings of Stage-1 in the miner's process."""

from __future__ import annotations

from typing import Literal

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
        max_pixels: largest image, width x height, that is decoded for a caller. A bundle may allow more: an image of a
            few hundred kilobytes can take seconds and hundreds of megabytes.
        formats: what is decoded for a caller. Validators send JPEG, and WebP holds up the whole process.
        fallback_probability: answered if Stage-1 itself fails or is late; one half counts as no roadwork.
    """

    threads: int | None = Field(default=None, ge=1)
    workers: int = Field(default=2, ge=1)
    serve_with: KnownEngine | None = None
    batch: BatchSettings = BatchSettings()
    swap: SwapSettings = SwapSettings()
    max_pixels: int = Field(default=20_000_000, ge=1)
    formats: tuple[Literal["JPEG", "PNG", "WEBP"], ...] = Field(default=("JPEG", "PNG"), min_length=1)
    fallback_probability: float = Field(default=0.5, ge=0, le=1)

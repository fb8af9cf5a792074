"""Settings of Stage-1 in the miner's process."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from engines.backends.registry import KnownEngine
from engines.live.remote.settings import ATTEMPTS, RemoteSettings, ServerUrl
from engines.live.settings import BatchSettings, SwapSettings
from stage1.settings import Section


class EngineSettings(Section):
    """Stage-1 in this process.

    Attributes:
        threads: intra-op threads; None for all cores.
        workers: images that are decoded at a time.
        serve_with: another engine than those that bundles were certified on, if the golden images of each say that it
            decides the same; `auto` for what `cascade engines bench --record` has found the fastest on this machine;
            None for those.
        remote: addresses of servers that compute it instead of this process.
        servers: how these are asked.
        batch: how requests that come together share engine calls.
        swap: how bundles are replaced.
        max_pixels: largest image, width x height, that is decoded for a caller. A bundle may allow more: an image of a
            few hundred kilobytes can take seconds and hundreds of megabytes.
        formats: what is decoded for a caller. Validators send JPEG, and WebP holds up the whole process.
        fallback_probability: answered if Stage-1 itself fails or is late; one half counts as no roadwork.
    """

    threads: int | None = Field(default=None, ge=1)
    workers: int = Field(default=2, ge=1)
    serve_with: KnownEngine | Literal["auto"] | None = None
    remote: tuple[ServerUrl, ...] = ()
    servers: RemoteSettings = RemoteSettings()
    batch: BatchSettings = BatchSettings()
    swap: SwapSettings = SwapSettings()
    max_pixels: int = Field(default=20_000_000, ge=1)
    formats: tuple[Literal["JPEG", "PNG", "WEBP"], ...] = Field(default=("JPEG", "PNG"), min_length=1)
    fallback_probability: float = Field(default=0.5, ge=0, le=1)

    @property
    def shared_calls(self) -> BatchSettings:
        """`batch`, with as many calls at a time as the servers take."""
        at_a_time = self.servers.connections * len(self.remote)
        return self.batch.model_copy(update={"workers": max(self.batch.workers, at_a_time)})

    @property
    def longest_s(self) -> float:
        """Seconds after which no server is waited for any longer; 0 where this process computes."""
        return ATTEMPTS * self.servers.timeout_s if self.remote else 0.0

    @model_validator(mode="after")
    def _one_way_to_compute(self) -> Self:
        twice = next((one for one in self.remote if self.remote.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"remote names {twice} twice")
        if self.remote and self.serve_with is not None:
            raise ValueError("remote has servers compute, and serve_with names an engine of this process: give one")
        return self

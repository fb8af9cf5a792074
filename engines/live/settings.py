"""Settings of engines in a running process."""

from __future__ import annotations

from pydantic import Field

from stage1.settings import Section


class BatchSettings(Section):
    """How requests share engine calls.

    Attributes:
        max_batch: images of one engine call at most.
        max_delay_s: how long an image waits for others while another batch is running.
        capacity: most images that wait; one more is answered with the fallback probability.
        workers: engine calls at a time, each with a context of its own where the engine has such.
        head_start_s: how much earlier an image of the highest priority counts as having come.
    """

    max_batch: int = Field(default=8, ge=1, le=64)
    max_delay_s: float = Field(default=0.002, ge=0, allow_inf_nan=False)
    capacity: int = Field(default=1024, ge=1)
    workers: int = Field(default=1, ge=1)
    head_start_s: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class CanarySettings(Section):
    """How the first requests of a new bundle are watched.

    Attributes:
        enabled: watch the first requests of a new bundle.
        requests: how many of different images are counted.
        minutes: for at least so long its golden images are computed again now and then.
        false_alarm: probability of rolling back a bundle that is as its certificate says, if requests are like the rows
            that certified it.
    """

    enabled: bool = True
    requests: int = Field(default=200, ge=10)
    minutes: float = Field(default=10.0, gt=0, allow_inf_nan=False)
    false_alarm: float = Field(default=0.001, gt=0, lt=1)


class SwapSettings(Section):
    """How bundles are replaced.

    Attributes:
        trial: load a new bundle in a process of its own first, at low priority, so that native code that crashes on it
            does not take the miner along.
        standby: keep the bundle that was live before loaded, for a rollback that takes no time.
        drain_s: a replaced bundle that requests still use after so long is reported.
        canary: how a new bundle's first requests are watched.
    """

    trial: bool = True
    standby: bool = True
    drain_s: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    canary: CanarySettings = CanarySettings()

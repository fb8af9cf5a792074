"""Settings of the nightly job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from engines.machine.bounds import whole_memory
from miner.nights.crontab import checked_crontab
from stage1.settings import Section, UserPath

GIB = 2**30
# Of the memory of the machine, where the settings name no bound: the rest is the miner's.
MEMORY_SHARE = 0.8


class RetrainSettings(Section):
    """The nightly job.

    Attributes:
        enabled: start it at all.
        cron: when it starts, in UTC, as five crontab fields, weekdays 0 and 7 being Sunday, or as `@hourly`,
            `@daily`, `@midnight`, `@weekly`, `@monthly`, `@yearly` or `@annually`.
        data: directory with `labels.csv`; needed if `enabled` is true.
        workspace: directory where finished stages are kept.
        preset: preset of the run: `standard` or `tiny`.
        config: a `config.json` that is used instead of the preset.
        niceness: priority of the process, from 0 to 19.
        timeout_h: the job is ended after so many hours.
        memory_gib: most memory that one of its processes may write; by default four fifths of what the machine
            or its container has.
        pause_above_ms: it waits at the border of a batch while the 99th percentile of the miner's times is above this.
        gpu_share: most of a GPU's memory that it takes; it is put off while less is free. None for no bound.
    """

    enabled: bool = False
    cron: Annotated[str, AfterValidator(checked_crontab)] = "30 3 * * *"
    data: UserPath | None = None
    workspace: UserPath = Path("cascade-data/workspace")
    preset: str = "standard"
    config: UserPath | None = None
    niceness: int = Field(default=15, ge=0, le=19)
    timeout_h: float = Field(default=10.0, gt=0)
    memory_gib: float | None = Field(default=None, gt=0)
    pause_above_ms: float = Field(default=1000.0, gt=0)
    gpu_share: float | None = Field(default=None, gt=0, le=1)

    @property
    def memory(self) -> int | None:
        """Most memory that one of its processes may write, bytes; None where nobody knows what there is."""
        if self.memory_gib is not None:
            return round(self.memory_gib * GIB)
        whole = whole_memory()
        return None if whole is None else round(MEMORY_SHARE * whole)

    @model_validator(mode="after")
    def _enabled_needs_data(self) -> Self:
        if self.enabled and self.data is None:
            raise ValueError("enabled is true, so data must name a directory with labels.csv")
        return self

"""Settings of the nightly job."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from miner.nights.crontab import checked_crontab
from stage1.settings import Section, UserPath


class RetrainSettings(Section):
    """The nightly job.

    Attributes:
        enabled: start it at all.
        cron: when, in UTC, as five crontab fields; weekdays 0 and 7 are Sunday.
        data: directory with `labels.csv`.
        workspace: where stages are cached.
        preset: preset of the pipeline.
        config: a `config.json` instead of the preset.
        niceness: of the child process.
        timeout_h: after so long it is ended.
    """

    enabled: bool = False
    cron: Annotated[str, AfterValidator(checked_crontab)] = "30 3 * * *"
    data: UserPath | None = None
    workspace: UserPath = Path("cascade-data/workspace")
    preset: str = "standard"
    config: UserPath | None = None
    niceness: int = Field(default=15, ge=0, le=19)
    timeout_h: float = Field(default=10.0, gt=0)

    @model_validator(mode="after")
    def _enabled_needs_data(self) -> Self:
        if self.enabled and self.data is None:
            raise ValueError("enabled is true, so data must name a directory with labels.csv")
        return self

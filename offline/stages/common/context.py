"""What the stages of a night may use, by type; nothing of it is needed to run one."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from offline.config import RunConfig
    from offline.data.dataset import Dataset
    from offline.pipeline.stage import Stage, StageContext

    Context: TypeAlias = StageContext[RunConfig, Dataset]
    NightStage: TypeAlias = Stage[RunConfig, Dataset]

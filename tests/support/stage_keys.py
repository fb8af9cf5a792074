"""Keys of the stages of a night by their settings alone: data, files of other stages and the code are held still."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from offline.config import RunConfig
from offline.night import stages
from offline.pipeline.content_key import View, key_of, stage_reads
from offline.pipeline.file_contents import FileContents
from offline.pipeline.settings_view import narrowed

if TYPE_CHECKING:
    from offline.stages.common.context import NightStage


class NoData(NamedTuple):
    """Data that are nothing but their hash."""

    sha256: str = "data"


def stage_key(stage: NightStage, config: RunConfig, data: str = "data") -> str:
    """Key of a stage with a config."""
    reads = stage.reads(config)
    view: Any = View(narrowed(config, reads.settings), NoData(data), {}, FileContents(None).below(reads.outside))
    return key_of(stage.name, stage_reads(stage, view))


def changed_stages(before: RunConfig, after: RunConfig) -> set[str]:
    """Names of the stages that a change of settings concerns, without those that only follow from them."""
    return {stage.name for stage in stages() if stage_key(stage, before) != stage_key(stage, after)}

"""Files beside the data that the config names and a stage reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from offline.learning.distillation.verdicts import verdicts_of
from offline.pipeline.run_files import ADAPTER_DESCRIPTION, ADAPTER_TENSORS
from offline.splits.settings import BundleDifficulty
from stage1.model.settings import PretrainedBackbone

if TYPE_CHECKING:
    from offline.config import RunConfig


def backbone_files(config: RunConfig) -> list[Path]:
    """The backbone, if it is a directory."""
    backbone = config.model.backbone
    return [Path(backbone.name)] if isinstance(backbone, PretrainedBackbone) and Path(backbone.name).is_dir() else []


def scorer_files(config: RunConfig) -> list[Path]:
    """The bundle that says how difficult pictures are, if one does."""
    difficulty = config.splits.difficulty
    return [difficulty.path] if isinstance(difficulty, BundleDifficulty) else []


def unlabelled_files(config: RunConfig) -> list[Path]:
    """The backbone, and the directories of unlabelled images if there is an adaptation."""
    return [*backbone_files(config), *(config.adapt_domain.images if config.adapt_domain.enabled else ())]


def training_start(config: RunConfig) -> list[Path]:
    """What supervised training starts from: the backbone, and the adapter of an earlier run if the config names one."""
    start = config.train_supervised.warm_start
    adapter = () if start is None else (start / ADAPTER_TENSORS, start / ADAPTER_DESCRIPTION)
    return [*backbone_files(config), *adapter]


def teacher_files(config: RunConfig) -> list[Path]:
    """Who teaches, and the pictures without labels: those that a table names, or those of directories.

    Raises:
        DatasetError: the table cannot be read, or names a picture that is not there.
    """
    teacher = config.learn.teacher
    if teacher is None:
        return []
    named = [verdict.path for verdict in verdicts_of(teacher)] if teacher.is_file() else []
    return [teacher, *named, *config.learn.teacher_images]

"""Asks a hub for a backbone, as a night does, and says why it cannot be had."""

from __future__ import annotations

import sys

from offline.night import stages
from stage1.errors import ModelError

stages()

from stage1.model.backbones import build  # noqa: E402  as a stage imports it, after the stages were imported
from stage1.model.settings import ModelSettings, PretrainedBackbone  # noqa: E402

try:
    build(ModelSettings(backbone=PretrainedBackbone(name="somebody/model")), shape=(32, 32), seed=0)
except ModelError as error:
    sys.stdout.write(str(error))

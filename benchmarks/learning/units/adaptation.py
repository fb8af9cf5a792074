"""ExPLoRA for the rows that start from an adapted backbone: on unlabelled frames, at a size that can be afforded.

A ViT takes any size, so what is learned from crops of 112 px is used at 224 px. Labels have no part in it: the last
epoch is kept.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from offline.config import RunConfig
from offline.data.dataset import Dataset
from offline.learning.self_distillation.adapt import adapt_domain
from offline.learning.self_distillation.schedule import Schedule
from offline.learning.settings import AdaptSettings
from stage1.artifacts import write_atomic
from stage1.model.backbones import build
from stage1.model.settings import ModelSettings
from stage1.preprocess import PreprocessSettings

SIDE_PX = 112
DONE = "adapted.json"


@dataclass(frozen=True)
class AdaptationSizes:
    """How long an adaptation is.

    Attributes:
        steps: of the backbone and the projection heads together.
        batch: images a step.
        head_share: share of the steps in which the projection heads train alone.
    """

    steps: int = 240
    batch: int = 32
    head_share: float = 0.05


def adaptation_settings(images: int, sizes: AdaptationSizes) -> AdaptSettings:
    """Settings of so many steps on so many images.

    Momentum and prototypes are those that `adapt_domain` fits to steps and batches.
    """
    batch = min(sizes.batch, images)
    return AdaptSettings(
        enabled=True,
        epochs=math.ceil(sizes.steps / max(1, images // batch)),
        batch_size=batch,
        rank=16,
        learning_rate=5e-4,
        head_steps=round(sizes.head_share * sizes.steps),
        head_hidden=512,
        head_bottleneck=128,
        precision="bf16",
        patience=None,
    )


def teacher_share(settings: AdaptSettings, images: int) -> float:
    """Share of a straight way of the student that its teacher has come at the end, in [0, 1].

    The student is taken to move by its rate in every step after those of the heads.
    """
    schedule = Schedule.of(settings, images)
    teacher = student = 0.0
    for step in range(schedule.head_steps, schedule.total):
        student += schedule.rate(step)
        teacher = schedule.momentum * teacher + (1 - schedule.momentum) * student
    return teacher / student if student else 0.0


def adapted_backbone(
    home: Path,
    config: RunConfig,
    settings: AdaptSettings,
    unlabelled: Dataset,
    *,
    seed: int,
) -> Path:
    """Directory of the backbone after adaptation; it is made once, and goes on where it was stopped.

    Args:
        home: where this one is kept, named after what decides it.
        config: names the backbone that it starts from.
        settings: of the adaptation.
        unlabelled: frames that it sees.
        seed: of the adaptation.

    Raises:
        TrainingError: the backbone cannot be adapted.
    """
    done = home / DONE
    if not done.exists():
        model = ModelSettings(backbone=config.model.backbone, adapter="none")
        net = build(model, shape=(SIDE_PX, SIDE_PX), seed=seed)
        images = unlabelled.array(PreprocessSettings(size_px=SIDE_PX))
        home.mkdir(parents=True, exist_ok=True)
        found = adapt_domain(
            net, images, settings, seed=seed, progress=lambda *_: None, checkpoints=home / "checkpoints"
        )
        _save(net.backbone, home)
        write_atomic(done, json.dumps(found.records[-1]).encode())
    return home


def arrival(home: Path, settings: AdaptSettings, images: int) -> str:
    """How far the teacher that was kept came, in words.

    Args:
        home: of an adapted backbone.
        settings: of the adaptation.
        images: that it saw.
    """
    last = json.loads((home / DONE).read_text())
    came, planned = last["teacher_way"] / last["student_way"], teacher_share(settings, images)
    return f"ExPLoRA's teacher came {came:.0%} as far as its student; by its schedule, {planned:.0%} of a straight way"


def _save(backbone: Any, directory: Path) -> None:
    if not isinstance(backbone, PreTrainedModel):
        raise TypeError(f"{type(backbone).__name__} is no model of transformers")
    with torch.no_grad():
        backbone.save_pretrained(directory)

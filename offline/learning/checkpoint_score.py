"""Which checkpoint of a training is the best: exit coverage on val_select."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from offline.data.dataset import Dataset
from stage1.certificate.labelled_outputs import LabelledOutputs
from stage1.certificate.search.candidates import select
from stage1.certificate.settings import CalibrationSettings
from stage1.outputs import Stage1Outputs

# Levels at which checkpoints are compared where none looks safe at the strict one, as multiples of it.
RELAXED = (2, 4, 8)
LAXEST = 0.5


@dataclass(frozen=True, order=True)
class SelectiveScore:
    """How good a checkpoint is on val_select, best last when sorted: by the first of these that differs.

    Attributes:
        coverage: exit coverage at the hard rule that val_select would choose.
        relaxed: mean of the same at laxer levels, `RELAXED` times as high: a small val_select shows no rule that looks
            safe at the strict one for most checkpoints, and they are no equals.
        negative_loss: minus the mean cross-entropy.
    """

    coverage: float
    relaxed: float
    negative_loss: float


def selective_score(outputs: Stage1Outputs, data: Dataset, settings: CalibrationSettings) -> SelectiveScore:
    """Judge a checkpoint by what the cascade is for: how much may exit at the risk that is to be certified."""
    labelled = LabelledOutputs(outputs, data.labels, data.ids, data.groups)
    loss = F.cross_entropy(torch.from_numpy(outputs.logits), torch.from_numpy(data.labels).long())
    levels = [min(LAXEST, factor * settings.alpha) for factor in (1, *RELAXED)]
    strict, *relaxed = (
        select(labelled, settings.model_copy(update={"alpha": alpha})).expected_coverage for alpha in levels
    )
    return SelectiveScore(strict, sum(relaxed) / len(relaxed), -float(loss))

"""The loss of labels and a teacher together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from offline.learning.distillation.soft_labels import SoftLabels, distillation_loss
from offline.learning.settings import TrainSettings
from offline.learning.supervised.losses import supervised_loss
from offline.learning.supervised.taught_loss import TaughtLoss
from stage1.model.net import NetOutputs

SETTINGS = TrainSettings()
NAN = np.nan


def outputs(rows: int = 4) -> NetOutputs:
    torch.manual_seed(0)
    return NetOutputs(torch.randn(rows, 2), torch.randn(rows), {})


def loss(probability: list[float], labelled: list[bool], labels: list[int], weight: float = 0.3) -> float:
    soft = SoftLabels(np.array(probability), np.array(labelled), 2.0, weight)
    taught = TaughtLoss(soft, SETTINGS, torch.device("cpu"))
    return float(taught(outputs(), None, torch.tensor(labels), {}, torch.arange(4)))


def test_it_is_the_mixture_of_both() -> None:
    probability, labels = [0.9, 0.2, 0.6, 0.4], [1, 0, 1, 0]
    said, true = outputs(), torch.tensor(labels)
    log_odds = torch.logit(torch.tensor(probability))
    wanted = 0.7 * supervised_loss(said, None, true, {}, SETTINGS) + 0.3 * distillation_loss(said.logits, log_odds, 2.0)
    assert loss(probability, [True] * 4, labels) == pytest.approx(float(wanted), rel=1e-5)


def test_the_label_of_a_picture_without_one_is_never_used() -> None:
    labelled = [True, True, False, False]
    assert loss([0.9, 0.2, 0.6, 0.4], labelled, [1, 0, 1, 0]) == loss([0.9, 0.2, 0.6, 0.4], labelled, [1, 0, 0, 1])


def test_where_the_teacher_is_silent_the_labels_are_the_whole_loss() -> None:
    wanted = float(supervised_loss(outputs(), None, torch.tensor([1, 0, 1, 0]), {}, SETTINGS))
    assert loss([NAN] * 4, [True] * 4, [1, 0, 1, 0]) == pytest.approx(wanted)


def test_where_there_are_no_labels_the_teacher_is_the_whole_loss() -> None:
    log_odds = torch.logit(torch.tensor([0.9, 0.2, 0.6, 0.4]))
    wanted = float(distillation_loss(outputs().logits, log_odds, 2.0))
    assert loss([0.9, 0.2, 0.6, 0.4], [False] * 4, [1, 1, 1, 1]) == pytest.approx(wanted, rel=1e-5)

"""What a teacher says, and the loss that follows it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import expit

from offline.learning.distillation.soft_labels import LEAST, SoftLabels, distillation_loss


def test_the_loss_is_the_divergence_of_the_softened_teacher_from_the_student() -> None:
    student, teacher, temperature = np.array([0.5, -2.0, 3.0]), np.array([1.0, -1.0, 4.0]), 2.0
    p, q = expit(teacher / temperature), expit(student / temperature)
    wanted = temperature**2 * np.mean(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    logits = torch.stack([torch.zeros(3), torch.from_numpy(student).float()], 1)
    found = distillation_loss(logits, torch.from_numpy(teacher).float(), temperature)
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_a_student_that_agrees_has_no_loss_and_no_gradient() -> None:
    logits = torch.tensor([[0.3, 1.3], [2.0, -1.0]], requires_grad=True)
    loss = distillation_loss(logits, torch.tensor([1.0, -3.0]), 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-6


def test_the_size_of_the_gradient_hardly_depends_on_a_high_temperature() -> None:
    sizes = []
    for temperature in (8.0, 16.0):
        logits = torch.tensor([[0.0, 1.0]], requires_grad=True)
        distillation_loss(logits, torch.tensor([2.0]), temperature).backward()
        assert logits.grad is not None
        sizes.append(float(logits.grad.norm()))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


def test_a_certain_teacher_asks_for_finite_logits_and_a_silent_one_for_none() -> None:
    soft = SoftLabels(np.array([0.0, 1.0, np.nan, 0.5]), np.ones(4, bool), 2.0, 0.5)
    found = soft.log_odds
    assert found[:2].tolist() == pytest.approx([np.log(LEAST / (1 - LEAST)), -np.log(LEAST / (1 - LEAST))], rel=1e-5)
    assert torch.isnan(found[2])
    assert float(found[3]) == 0.0
    assert soft.decides[0] == [0.0, 1.0, None, 0.5]

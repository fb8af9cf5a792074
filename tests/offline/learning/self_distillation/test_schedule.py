"""The schedule of an adaptation: the teacher arrives, heads take little of it, and prototypes fit the batch."""

from __future__ import annotations

import numpy as np
import pytest

from offline.learning.self_distillation.schedule import Schedule, momentum_for, prototypes_for
from offline.learning.settings import AdaptSettings

# Training rows of NATIX's data, and of the benchmark.
SIZES = [(4274, {}), (1195, {"epochs": 2}), (1195, {})]


@pytest.mark.parametrize(("images", "changes"), SIZES)
@pytest.mark.parametrize("path", ["straight", "at random"])
def test_the_teacher_ends_where_the_student_does(images: int, changes: dict[str, int], path: str) -> None:
    """A student that moves by its rate in each step, and a teacher that follows by the momentum of the schedule."""
    schedule = Schedule.of(AdaptSettings.model_validate(changes), images)
    rng = np.random.default_rng(0)
    student = teacher = np.zeros(200)
    for step in range(schedule.total):
        if step >= schedule.head_steps:
            way = np.ones(200) if path == "straight" else rng.normal(size=200)
            student = student + schedule.rate(step) * way
        teacher = schedule.momentum * teacher + (1 - schedule.momentum) * student
    assert np.linalg.norm(teacher) >= 0.9 * np.linalg.norm(student)


def test_the_time_constant_of_the_teacher_is_a_twentieth_of_the_steps() -> None:
    assert momentum_for(2000) ** 100 == pytest.approx(np.exp(-1))
    assert momentum_for(0) == 0
    assert 0 < momentum_for(1) < momentum_for(20) < 1


@pytest.mark.parametrize(
    ("images", "changes", "expected"),
    [
        (4274, {}, (660, 33)),
        (100_000, {}, (15620, 500)),
        (1195, {"epochs": 2}, (36, 1)),
        (1195, {"epochs": 2, "head_steps": 0}, (36, 0)),
        (10, {"epochs": 1}, (1, 1)),
    ],
)
def test_heads_alone_train_for_a_twentieth_of_the_steps_at_most(
    images: int, changes: dict[str, int], expected: tuple[int, int]
) -> None:
    schedule = Schedule.of(AdaptSettings.model_validate(changes), images)
    assert (schedule.total, schedule.head_steps) == expected


def test_what_is_fixed_is_not_computed() -> None:
    assert Schedule.of(AdaptSettings(momentum=0.5), 4274).momentum == 0.5


def test_rates_rise_anew_when_the_backbone_begins_to_move_and_end_at_nothing() -> None:
    schedule = Schedule.of(AdaptSettings(), 4274)
    rates = np.asarray([schedule.rate(step) for step in range(schedule.total + 1)])
    assert np.all(rates[:33] == 1)
    assert rates[33] < 0.05
    assert rates.argmax() == 0
    assert rates[33:].max() == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_the_teacher_is_sharpest_at_the_start() -> None:
    schedule = Schedule.of(AdaptSettings(), 4274)
    assert schedule.temperature(0) == pytest.approx(0.04)
    assert schedule.temperature(99) == pytest.approx(0.055)
    assert schedule.temperature(198) == schedule.temperature(600) == pytest.approx(0.07)


@pytest.mark.parametrize(("batch", "expected"), [(2, 64), (16, 256), (32, 512), (64, 1024), (96, 2048), (8192, 65536)])
def test_prototypes_fit_the_batch(batch: int, expected: int) -> None:
    assert prototypes_for(batch) == expected

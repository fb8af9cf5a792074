from __future__ import annotations

import numpy as np
import pytest

from stage1.decisions import DEFERRED, Action, Decisions, Level

LABELS = np.array([0, 1, DEFERRED, DEFERRED, 0], np.int8)
AMBIGUOUS = np.array([True, False, True, False, False])


@pytest.fixture
def decisions() -> Decisions:
    return Decisions.from_exit_labels(LABELS, AMBIGUOUS)


def test_a_singleton_exits_and_both_labels_defer(decisions: Decisions) -> None:
    assert [decisions.prediction_set(row) for row in range(5)] == [(0,), (1,), (0, 1), (0, 1), (0,)]
    assert [decisions.action(row) for row in range(5)] == [
        Action.EXIT,
        Action.EXIT,
        Action.DEFER,
        Action.DEFER,
        Action.EXIT,
    ]
    assert decisions.exits.tolist() == [True, True, False, False, True]


def test_only_what_is_deferred_can_be_ambiguous(decisions: Decisions) -> None:
    assert [Level(level).name for level in decisions.level.tolist()] == [
        "CONFIDENT_0",
        "CONFIDENT_1",
        "AMBIGUOUS",
        "UNCERTAIN",
        "CONFIDENT_0",
    ]


def test_no_prediction_set_is_empty(decisions: Decisions) -> None:
    assert all(decisions.prediction_set(row) for row in range(len(decisions)))


def test_types_are_one_byte_an_image(decisions: Decisions) -> None:
    assert decisions.exit_label.dtype == decisions.level.dtype == np.int8


def test_no_images_no_decisions() -> None:
    empty = Decisions.from_exit_labels(np.zeros(0, np.int8), np.zeros(0, bool))
    assert len(empty) == 0
    assert not empty.exits.any()

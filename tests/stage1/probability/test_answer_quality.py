"""How good answers are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef, roc_auc_score

from stage1.probability.answer_quality import judge_answers, judge_subgroups


def test_the_numbers_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(3)
    labels = (rng.random(300) < 0.3).astype(np.int8)
    probability = np.clip(np.where(labels == 1, 0.6, 0.4) + rng.normal(0, 0.2, 300), 0, 1).round(2)
    answers = np.round(probability)
    found = judge_answers(probability, labels, [f"g{n // 3}" for n in range(300)], repetitions=50)
    assert (found.rows, found.positives, found.groups) == (300, int(labels.sum()), 100)
    assert found.accuracy.value == pytest.approx((answers == labels).mean())
    assert found.mcc.value == pytest.approx(matthews_corrcoef(labels, answers))
    assert found.auroc.value == pytest.approx(roc_auc_score(labels, probability))
    assert found.misses.value == pytest.approx((answers[labels == 1] == 0).mean())
    assert found.false_alarms.value == pytest.approx((answers[labels == 0] == 1).mean())
    assert found.auroc.lower is not None
    assert found.auroc.lower < roc_auc_score(labels, probability)


def test_half_is_answered_no_roadwork_as_validators_round_it() -> None:
    found = judge_answers(np.array([0.5, 0.5]), np.array([0, 1]), ["a", "b"], repetitions=0)
    assert (found.misses.value, found.false_alarms.value) == (1.0, 0.0)
    assert found.mcc.value == 0.0
    assert found.mcc.lower is None


def test_a_column_of_a_few_values_has_parts_and_one_of_many_has_none() -> None:
    labels = np.array([0, 1] * 20)
    probability = np.where(np.arange(40) < 20, labels, 1 - labels) * 0.8 + 0.1
    columns = {
        "source": ["right"] * 20 + ["wrong"] * 20,
        "drive": [str(n) for n in range(40)],
        "city": [""] * 25 + ["x"] * 5 + ["y"] * 10,
        "same": ["one"] * 40,
    }
    found = judge_subgroups(probability, labels, columns)
    assert [(one.column, one.value, one.rows, one.accuracy, one.mcc, one.auroc) for one in found] == [
        ("source", "right", 20, 1.0, 1.0, 1.0),
        ("source", "wrong", 20, 0.0, -1.0, 0.0),
        ("city", "y", 10, 0.0, -1.0, 0.0),
    ]
    assert judge_subgroups(probability[::2], labels[::2], {"half": ["a"] * 10 + ["b"] * 10})[0].auroc is None

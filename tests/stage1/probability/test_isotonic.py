"""Probabilities that rise with a score by steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stage1.errors import CalibrationError
from stage1.probability.isotonic import IsotonicCalibrator, fit_isotonic

ROWS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60).filter(
    lambda rows: 0 < sum(label for _, label in rows) < len(rows)
)


def test_the_steps_are_those_of_pool_adjacent_violators_on_targets_away_from_certainty() -> None:
    # By hand: 3 and 3 rows, so a 0 counts as 1/5 and a 1 as 4/5; the pair at .3 and .4 is in the wrong order.
    found = fit_isotonic(np.array([0.1, 0.2, 0.3, 0.4, 0.8, 0.9]), np.array([0, 0, 1, 0, 1, 1]))
    assert found.rows == 6
    assert found.scores == (0.1, 0.2, 0.3, 0.4, 0.8, 0.9)
    assert found.probability == pytest.approx((0.2, 0.2, 0.5, 0.5, 0.8, 0.8))
    # Linear between the steps, and the nearest one outside of them.
    assert found.probabilities(np.array([0.0, 0.25, 0.35, 1.0])) == pytest.approx([0.2, 0.35, 0.5, 0.8])


@given(ROWS)
def test_it_never_falls_is_never_certain_and_keeps_the_mean_of_its_targets(rows: list[tuple[float, bool]]) -> None:
    scores, labels = np.array([score for score, _ in rows]), np.array([int(label) for _, label in rows])
    found = fit_isotonic(scores, labels)
    order = np.argsort(scores)
    probability = found.probabilities(scores)
    assert (np.diff(probability[order]) >= 0).all()
    assert 0 < probability.min() <= probability.max() < 1
    one, zero = (labels.sum() + 1) / (labels.sum() + 2), 1 / ((1 - labels).sum() + 2)
    assert probability.mean() == pytest.approx(np.where(labels == 1, one, zero).mean())
    assert IsotonicCalibrator.model_validate_json(found.model_dump_json()) == found


def test_it_mends_a_jump() -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(4000)
    true = np.where(scores > 0.3, 0.7, 0.05)
    found = fit_isotonic(scores, (rng.random(4000) < true).astype(np.int8)).probabilities(scores)
    assert np.abs(found - true).mean() < 0.03


def test_rows_of_one_class_fit_nothing() -> None:
    with pytest.raises(CalibrationError, match="single class"):
        fit_isotonic(np.array([0.1, 0.9]), np.array([1, 1]))


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"scores": (0.5, 0.5)}, "scores must rise"),
        ({"scores": (0.5, 1.5)}, "scores must rise"),
        ({"probability": (0.5, 0.4)}, "must not fall"),
        ({"probability": (0.0, 0.4)}, "must not fall"),
        ({"probability": (0.5,)}, "2 scores and 1 probabilities"),
    ],
)
def test_steps_that_are_none_are_refused(changed: dict[str, object], problem: str) -> None:
    fields: dict[str, object] = {"scores": (0.1, 0.9), "probability": (0.2, 0.8), "rows": 2}
    with pytest.raises(ValidationError, match=problem):
        IsotonicCalibrator.model_validate(fields | changed)

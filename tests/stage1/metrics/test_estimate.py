"""Numbers with their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from stage1.metrics.bootstrap import rate
from stage1.metrics.estimate import Estimate, estimates


def test_every_number_is_of_the_same_replicates_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"drive {n}" for n in range(40)], 5)
    right = rng.random(200) < 0.8
    everything = np.ones(200, bool)
    found = estimates(
        {"right": rate(everything, right), "wrong": rate(everything, ~right)}, groups, 200, np.random.default_rng(1)
    )
    ours, theirs = found["right"], found["wrong"]
    assert ours.value == pytest.approx(right.mean())
    assert ours.lower is not None
    assert ours.upper is not None
    assert ours.lower < right.mean() < ours.upper
    assert ours.lower == pytest.approx(1 - (theirs.upper or 0))


def test_a_number_without_rows_is_not_defined() -> None:
    nothing = np.zeros(3, bool)
    found = estimates({"none": rate(nothing, nothing)}, ["a", "b", "c"], 10, np.random.default_rng(0))["none"]
    assert found == Estimate(value=None)
    assert found.in_words(".1%") == "not defined"
    assert Estimate(value=0.5, lower=0.25, upper=0.75).in_words(".0%") == "50% [25%, 75%]"
    assert Estimate(value=0.5).in_words(".2f") == "0.50"

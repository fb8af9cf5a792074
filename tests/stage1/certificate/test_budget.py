"""All certificates on the same rows hold together: their levels sum to no more than delta."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.certificate.budget import Budget, spent_on


def test_nights_spend_delta_and_no_more_however_many_there_are() -> None:
    shares = [spent_on(0.1, uses) for uses in range(100_000)]
    assert sum(shares) == pytest.approx(0.1, rel=1e-4)
    assert sum(shares) <= 0.1
    assert shares == sorted(shares, reverse=True)


@given(st.floats(0.001, 0.5), st.integers(1, 50))
def test_looks_have_equal_parts_and_then_there_are_none_left(delta: float, looks: int) -> None:
    spent = 0.0
    levels: list[float] = []
    while (budget := Budget("looks", delta, looks, len(levels), spent)).affordable:
        assert budget.left == looks - len(levels)
        levels.append(budget.level)
        spent += budget.level
    assert levels == [delta / looks] * looks
    assert spent <= delta * (1 + 1e-9)
    assert Budget("looks", delta, looks, len(levels), spent).left == 0


def test_what_was_spent_otherwise_is_not_spent_again() -> None:
    """Two nights of the schedule without end have spent three quarters of delta: one look of six is left."""
    nights = spent_on(0.1, 0) + spent_on(0.1, 1)
    assert Budget("looks", 0.1, 6, 2, nights).left == 1
    assert not Budget("looks", 0.1, 2, 2, nights).affordable
    assert Budget("nights", 0.1, 6, 2, nights).affordable
    assert not Budget("nights", 0.1, 6, 6, 0.1).affordable


def test_without_a_word_each_earlier_use_spent_what_it_was_given() -> None:
    assert Budget("looks", 0.1, 6, 2).spent == pytest.approx(0.2 / 6)
    assert Budget("nights", 0.1, 6, 2).spent == spent_on(0.1, 0) + spent_on(0.1, 1)


def test_a_single_use_has_all_of_it_whatever_was_before() -> None:
    budget = Budget("single_use", 0.1, 6, 9, 0.9)
    assert (budget.level, budget.spent, budget.affordable, budget.left) == (0.1, 0.0, True, None)

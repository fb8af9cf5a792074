"""Shares in print promise no more than the number does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.certificate.statistics.percent import at_least, at_most, confidence

UPPER = [(0.02, "2.0%"), (0.05, "5.0%"), (0.0029, "0.29%"), (0.0041408, "0.42%"), (4.9e-5, "0.0049%"), (1.0, "100.0%")]


def number(text: str) -> float:
    assert text.endswith("%")
    return float(text[:-1]) / 100


@given(st.floats(1e-9, 1))
def test_bounds_are_rounded_to_the_safe_side(share: float) -> None:
    assert number(at_most(share)) >= share * (1 - 1e-6)
    assert number(at_least(share)) <= share * (1 + 1e-6)
    assert number(at_most(share)) <= max(share * 1.2, share + 1e-4)
    assert number(at_least(share)) >= min(share * 0.8, share - 1e-4)


@pytest.mark.parametrize(("share", "text"), UPPER)
def test_upper_bounds(share: float, text: str) -> None:
    assert at_most(share) == text


@pytest.mark.parametrize(
    ("delta", "text"),
    [(0.1, "90%"), (0.05, "95%"), (0.001, "99.9%"), (0.125, "87.5%"), (0.0151982, "98.48%"), (1e-6, "99.99%")],
)
def test_a_confidence_keeps_its_digits(delta: float, text: str) -> None:
    assert confidence(delta) == text

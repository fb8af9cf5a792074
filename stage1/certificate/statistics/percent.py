"""Shares in print, never rounded to the side that promises more."""

from __future__ import annotations

import math


def confidence(delta: float) -> str:
    """One minus delta in per cent, rounded down to two decimals where it has more: `90%`, `99.9%`, `98.48%`."""
    return f"{math.floor(round(1e4 * (1 - delta), 6)) / 100:.10g}%"


def at_most(share: float) -> str:
    """An upper bound in per cent, rounded up: `2.0%`, `0.42%` for 0.0041408, `0.0049%` for 4.9e-5."""
    return _percent(share, math.ceil)


def at_least(share: float) -> str:
    """A lower bound in per cent, rounded down: `80.0%`."""
    return _percent(share, math.floor)


def _percent(share: float, towards: object) -> str:
    assert callable(towards)
    digits = 2 if share >= 1e-3 or share <= 0 else 1 - math.floor(math.log10(100 * share))
    # A share such as 0.0029 times ten thousand lies a rounding error beside a whole number.
    scaled = round(100 * share * 10**digits, 6)
    text = f"{towards(scaled) / 10**digits:.{digits}f}"
    return f"{text[:-1] if text.endswith('0') and digits == 2 else text}%"

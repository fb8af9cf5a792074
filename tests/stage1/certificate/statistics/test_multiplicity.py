from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control.fwer_control import control_fwer

from stage1.certificate.statistics.multiplicity import holm


def holm_by_hand(p_values: list[float], delta: float) -> set[int]:
    """Reject the smallest while it is at most delta over the number of those left."""
    left, rejected = dict(enumerate(p_values)), set()
    while left:
        smallest = min(left, key=lambda i: (left[i], i))
        if left[smallest] > delta / len(left):
            break
        rejected.add(smallest)
        del left[smallest]
    return rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.01, 0.5))
def test_holm_steps_down(p_values: list[float], delta: float) -> None:
    granted = holm(np.array(p_values), delta)
    assert set(np.flatnonzero(granted).tolist()) == holm_by_hand(p_values, delta)
    assert all(p <= level for p, level in zip(p_values, granted, strict=True) if level)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=20, unique=True))
def test_holm_agrees_with_mapie(p_values: list[float]) -> None:
    theirs = control_fwer(np.array(p_values), 0.1, "bonferroni_holm")
    assert set(np.atleast_1d(theirs).tolist()) == set(np.flatnonzero(holm(np.array(p_values), 0.1)).tolist())


def test_a_missing_p_value_rejects_nothing_after_it() -> None:
    assert holm(np.array([math.nan, 1e-9]), 0.1).tolist() == [0.0, 0.05]

"""One sweep along t0 counts what the definitions count at each t0."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1.certificate.risks import Risk, Unit, Units, conditions, onset
from stage1.certificate.search.threshold_counts import Counts, sweep
from stage1.decisions import Decisions
from stage1.exit_rule import Eligible, eligible
from stage1.outputs import Stage1Outputs

COARSE = st.integers(-6, 6).map(lambda halves: halves / 2)
# Score, selection score, label, group.
ROWS = st.lists(st.tuples(COARSE, COARSE, st.integers(0, 1), st.integers(0, 6)), min_size=1, max_size=40)


def by_definition(
    risk: Risk | None, labels: NDArray[np.int8], rule: Eligible, units: Units, t0: float
) -> tuple[int, int]:
    """Losses and trials at one t0, from decisions."""
    as_zero = rule.zero & (rule.score < np.float32(t0))
    exit_label = np.where(as_zero, 0, np.where(rule.one, 1, -1)).astype(np.int8)
    decisions = Decisions.from_exit_labels(exit_label, np.zeros(len(labels), bool))
    if risk is None:
        return units.count(np.ones(len(labels), bool), decisions.exits)
    return units.count(*conditions(risk, labels, decisions, rule.gate))


@pytest.mark.parametrize("unit", ["row", "group"])
@pytest.mark.parametrize("risk", [*Risk, None])
@given(rows=ROWS, tau=COARSE, t1=COARSE, subset=st.integers(0, 2**12 - 1))
def test_counts_are_those_of_the_definitions(
    unit: Unit, risk: Risk | None, rows: list[tuple[float, float, int, int]], tau: float, t1: float, subset: int
) -> None:
    score, gate, label, group = np.array(rows, np.float32).T
    labels = label.astype(np.int8)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), gate.copy())
    rule = eligible(outputs, tau=tau, t1=t1)
    units = Units.of([f"row {i}" for i in range(len(rows))], [f"site {g:.0f}" for g in group], unit=unit, seed=subset)
    grid = np.unique(np.append(np.arange(-4, t1, 0.25), t1)).astype(np.float32)
    found = sweep(onset(risk, labels, rule), units, grid)
    expected = [by_definition(risk, labels, rule, units, float(t0)) for t0 in grid]
    assert list(zip(found.losses.tolist(), found.trials.tolist(), strict=True)) == expected


@pytest.mark.parametrize("unit", ["row", "group"])
def test_of_some_rows_is_that_of_the_rows_alone(unit: Unit) -> None:
    rng = np.random.default_rng(5)
    score = rng.normal(size=400).astype(np.float32)
    labels = (rng.random(400) < 0.5).astype(np.int8)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.abs(score))
    ids, groups = [str(i) for i in range(400)], [str(i // 4) for i in range(400)]
    among, grid = rng.random(400) < 0.4, np.linspace(-2, 1, 30, dtype=np.float32)
    index = np.flatnonzero(among)
    there = sweep(
        onset(Risk.MISS_EXIT, labels, eligible(outputs, tau=0.3, t1=1.0)),
        Units.of(ids, groups, unit=unit, seed=1),
        grid,
        among=among,
    )
    alone = sweep(
        onset(Risk.MISS_EXIT, labels[index], eligible(outputs.rows(index), tau=0.3, t1=1.0)),
        Units.of([ids[i] for i in index], [groups[i] for i in index], unit=unit, seed=1),
        grid,
    )
    assert same(there, alone)


def same(first: Counts, second: Counts) -> bool:
    return np.array_equal(first.losses, second.losses) and np.array_equal(first.trials, second.trials)


def test_groups_of_one_row_are_rows() -> None:
    rng = np.random.default_rng(6)
    score, labels = rng.normal(size=300).astype(np.float32), (rng.random(300) < 0.5).astype(np.int8)
    outputs = Stage1Outputs(np.stack([np.zeros_like(score), score], 1), np.abs(score))
    found = onset(Risk.ERROR_EXIT, labels, eligible(outputs, tau=0.2, t1=0.9))
    ids, grid = [str(i) for i in range(300)], np.linspace(-2, 0.9, 25, dtype=np.float32)
    by_row, by_group = (sweep(found, Units.of(ids, ids, unit=unit, seed=3), grid) for unit in ("row", "group"))
    assert same(by_row, by_group)


def test_no_rows_count_nothing() -> None:
    outputs = Stage1Outputs(np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
    for unit in ("row", "group"):
        found = onset(Risk.MISS_EXIT, np.zeros(0, np.int8), eligible(outputs, tau=0.0, t1=0.0))
        counts = sweep(found, Units.of([], [], unit=unit, seed=0), np.zeros(2, np.float32))
        assert counts.losses.tolist() == counts.trials.tolist() == [0, 0]

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from stage1.certificate.risks import Rate, Risk, Unit, Units, conditions, measure
from stage1.decisions import DEFERRED, Decisions
from stage1.exit_rule import apply_exit_rule

Rows = list[tuple[int, int, bool]]


@st.composite
def decided_rows(draw: st.DrawFn) -> Rows:
    """Label, exit label and gate of some rows; what exits has passed the gate."""
    rows = draw(st.lists(st.tuples(st.integers(0, 1), st.integers(-1, 1), st.booleans()), max_size=40))
    return [(label, exit_label, gate or exit_label != DEFERRED) for label, exit_label, gate in rows]


def arrays_of(rows: Rows) -> tuple[NDArray[np.int8], Decisions, NDArray[np.bool_]]:
    label, exit_label, gate = np.array(rows, np.int8).reshape(-1, 3).T
    return label, Decisions.from_exit_labels(exit_label, np.zeros(len(rows), bool)), gate.astype(bool)


def units_of(count: int, *, groups: list[str] | None = None, unit: Unit = "row", seed: int = 0) -> Units:
    names = [f"row {i}" for i in range(count)]
    return Units.of(names, names if groups is None else groups, unit=unit, seed=seed)


def by_hand(rows: Rows) -> dict[str, tuple[int, int]]:
    """Losses and trials of each risk, read off the definitions."""
    positives = [row for row in rows if row[0] == 1]
    missed = sum(row[1] == 0 for row in positives)
    exits = [row for row in rows if row[1] != DEFERRED]
    exits_as_zero = [row for row in rows if row[1] == 0]
    return {
        "D1": (missed, len(positives)),
        "D2'": (missed, sum(row[2] for row in positives)),
        "D2": (missed, sum(row[1] != DEFERRED for row in positives)),
        "D3": (sum(row[0] == 1 for row in exits_as_zero), len(exits_as_zero)),
        "D4": (sum(row[0] != row[1] for row in exits), len(exits)),
        "D5": (missed, len(rows)),
    }


class TestRiskOfRows:
    @given(decided_rows())
    def test_counts_are_those_of_the_definitions(self, rows: Rows) -> None:
        rates = measure(*arrays_of(rows), units_of(len(rows)), delta=0.1)
        assert {str(risk): (rate.events, rate.trials) for risk, rate in rates.items()} == by_hand(rows)

    @given(decided_rows())
    def test_d1_is_at_most_d2_prime_is_at_most_d2(self, rows: Rows) -> None:
        rates = measure(*arrays_of(rows), units_of(len(rows)), delta=0.1)
        chain = [rates[risk] for risk in (Risk.MISS_ALL, Risk.MISS_GATED, Risk.MISS_EXIT)]
        for weaker, stronger in itertools.pairwise(chain):
            assert weaker.trials >= stronger.trials
            assert weaker.upper <= stronger.upper
            assert stronger.estimate is None or (weaker.estimate or 0.0) <= stronger.estimate

    def test_what_is_true_of_d2_is_true_of_d1_on_real_scores(self) -> None:
        rng = np.random.default_rng(4)
        for _ in range(200):
            labels = rng.integers(0, 2, 300).astype(np.int8)
            score = (rng.normal(labels * 3.0, 1.0)).astype(np.float32)
            gate_score = rng.normal(size=300).astype(np.float32)
            t0, t1 = np.sort(rng.normal(1.5, 1.0, 2))
            exit_label = apply_exit_rule(score, gate_score, tau=-0.5, t0=float(t0), t1=float(t1))
            decisions = Decisions.from_exit_labels(exit_label, np.zeros(300, bool))
            rates = measure(labels, decisions, gate_score >= -0.5, units_of(300), delta=0.1)
            assert rates[Risk.MISS_ALL].upper <= rates[Risk.MISS_GATED].upper <= rates[Risk.MISS_EXIT].upper

    def test_nobody_exited_is_not_a_risk_of_zero(self) -> None:
        rates = measure(*arrays_of([(1, DEFERRED, True), (0, DEFERRED, True)]), units_of(2), delta=0.1)
        for risk in (Risk.MISS_EXIT, Risk.FALSE_OMISSION, Risk.ERROR_EXIT):
            assert rates[risk].estimate is None
            assert (rates[risk].lower, rates[risk].upper) == (0.0, 1.0)

    def test_exits_as_0_only_make_every_exited_positive_a_miss(self) -> None:
        rates = measure(*arrays_of([(1, 0, True), (1, DEFERRED, True), (0, 0, True)]), units_of(3), delta=0.1)
        assert rates[Risk.MISS_EXIT].estimate == 1.0
        assert rates[Risk.MISS_ALL].estimate == 0.5

    def test_no_rows_no_trials(self) -> None:
        assert all(rate.trials == 0 for rate in measure(*arrays_of([]), units_of(0), delta=0.1).values())


GROUPED = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


class TestGroups:
    @given(GROUPED, st.integers(0, 3))
    def test_one_row_stands_for_each_group_that_has_any(self, rows: list[tuple[int, bool]], seed: int) -> None:
        groups = [f"group {group}" for group, _ in rows]
        mask = np.array([inside for _, inside in rows])
        chosen = units_of(len(rows), groups=groups, unit="group", seed=seed).representatives(mask)
        assert mask[chosen].all()
        assert sorted(groups[row] for row in chosen) == sorted({g for g, m in zip(groups, mask, strict=True) if m})

    @given(GROUPED, st.randoms(use_true_random=False))
    def test_the_choice_does_not_depend_on_the_order_of_rows(
        self, rows: list[tuple[int, bool]], shuffler: st.DataObject
    ) -> None:
        names = [f"row {i}" for i in range(len(rows))]
        shuffled = list(range(len(rows)))
        shuffler.shuffle(shuffled)  # type: ignore[attr-defined]

        def chosen(order: list[int]) -> set[str]:
            units = Units.of([names[i] for i in order], [f"g{rows[i][0]}" for i in order], unit="group", seed=7)
            picked = units.representatives(np.array([rows[i][1] for i in order]))
            return {names[order[row]] for row in picked}

        assert chosen(shuffled) == chosen(list(range(len(rows))))

    @pytest.mark.parametrize("unit", ["row", "group"])
    def test_reordered_units_choose_the_same_rows(self, unit: Unit) -> None:
        groups = [f"g{i % 7}" for i in range(40)]
        units, rng = units_of(40, groups=groups, unit=unit, seed=3), np.random.default_rng(5)
        for _ in range(20):
            index, mask = rng.permutation(40), rng.random(40) < 0.5
            picked = units.reordered(index).representatives(mask[index])
            assert set(index[picked].tolist()) == set(units.representatives(mask).tolist())

    def test_the_choice_knows_nothing_of_scores_or_labels(self) -> None:
        """Among the rows that qualify, the order is fixed by seed and row id alone."""
        groups = ["a"] * 6 + ["b"] * 6
        units = units_of(12, groups=groups, unit="group", seed=3)
        rank = {int(row): place for place, row in enumerate(units.order)}
        for bits in range(1, 2**6):
            mask = np.array([bool(bits >> i & 1) for i in range(6)] * 2)
            for row in units.representatives(mask):
                rivals = [i for i in range(12) if mask[i] and groups[i] == groups[row]]
                assert rank[int(row)] == min(rank[i] for i in rivals)

    def test_the_choice_is_uniform_over_seeds(self) -> None:
        groups = ["one group"] * 5
        picked = Counter(
            int(units_of(5, groups=groups, unit="group", seed=seed).representatives(np.ones(5, bool))[0])
            for seed in range(3000)
        )
        assert chisquare([picked[row] for row in range(5)]).pvalue > 1e-3

    def test_a_group_counts_once_however_many_frames_it_has(self) -> None:
        frames = [1, 50, 3]
        groups = [f"g{k}" for k, count in enumerate(frames) for _ in range(count)]
        rows: Rows = [(1, 0 if group == "g1" else 1, True) for group in groups]
        rates = measure(*arrays_of(rows), units_of(54, groups=groups, unit="group"), delta=0.1)
        assert (rates[Risk.MISS_EXIT].events, rates[Risk.MISS_EXIT].trials) == (1, 3)

    def test_with_a_row_as_the_unit_groups_do_not_matter(self) -> None:
        rows: Rows = [(1, 0, True)] * 4
        one_group = units_of(4, groups=["same"] * 4, unit="row")
        assert measure(*arrays_of(rows), one_group, delta=0.1)[Risk.MISS_EXIT].trials == 4


class TestRate:
    def test_bounds_are_those_of_the_counts(self) -> None:
        rate = Rate.count(0, 114, 0.1)
        assert rate.upper == pytest.approx(1 - 0.1 ** (1 / 114))
        assert rate.upper <= 0.02
        assert rate.lower == 0.0

    @pytest.mark.parametrize("field", ["events", "trials", "lower", "upper"])
    def test_nonsense_is_refused(self, field: str) -> None:
        values = {"events": 1, "trials": 2, "lower": 0.1, "upper": 0.9} | {field: -1}
        with pytest.raises(ValueError, match=field):
            Rate.model_validate(values)


def test_every_risk_has_a_condition_that_contains_its_losses() -> None:
    rows: Rows = list(itertools.product((0, 1), (-1, 0, 1), (True,)))
    labels, decisions, gate = arrays_of(rows)
    for risk in Risk:
        condition, loss = conditions(risk, labels, decisions, gate)
        assert condition.dtype == loss.dtype == bool
        if risk is not Risk.FALSE_OMISSION:
            assert not (loss & ~condition).any()

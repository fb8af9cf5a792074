"""What is planted in made answers is seen by what judges real ones."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning.table.comparison import METRICS, alone, difference
from benchmarks.learning.table.exits import answered
from benchmarks.learning.table.self_test import SelfTest, is_sound, made_rows, self_test
from stage1.decisions import DEFERRED


def test_a_large_difference_is_seen_and_none_is_not() -> None:
    found = self_test(5, seeds=1, repetitions=100)
    assert is_sound(found)
    assert found[0].truth == pytest.approx(0, abs=0.02)
    assert found[-1].truth > 0.05


def test_a_benchmark_that_sees_what_is_not_there_is_not_sound() -> None:
    blind = SelfTest(0.9, 0.1, 0.1, seen=0.5, denied=0.0)
    nothing, large = SelfTest(0.0, 0.0, 0.1, seen=0.0, denied=0.0), SelfTest(0.9, 0.1, 0.1, seen=1.0, denied=0.0)
    eager = SelfTest(0.0, 0.0, 0.1, seen=0.2, denied=0.2)
    assert is_sound([nothing, large])
    assert not is_sound([nothing, blind])
    assert not is_sound([eager, large])


def test_a_row_less_itself_is_nothing() -> None:
    row, _ = made_rows(np.random.default_rng(0), 0.0, 1)
    found = difference(row, row, 20)
    assert found is not None
    assert {found.metrics[name].value for name in METRICS} == {0.0}


def test_rows_without_a_common_unit_are_not_compared() -> None:
    ours, theirs = made_rows(np.random.default_rng(0), 0.0, 1)
    assert difference({(0, 0): ours[0, 0]}, {(1, 0): theirs[1, 0]}, 5) is None


def test_the_rule_of_a_fold_is_not_chosen_on_it() -> None:
    row, _ = made_rows(np.random.default_rng(0), 0.5, 1)
    results = {fold: row[fold, 0] for fold in range(4)}
    before = answered(results)
    answers = results[0].answers["test"]
    flipped = answers.model_copy(update={"labels": tuple(1 - label for label in answers.labels)})
    changed = results[0].model_copy(update={"answers": {**results[0].answers, "test": flipped}})
    after = answered({**results, 0: changed})
    own = before.folds == 0
    for level, labels in before.exits.items():
        assert (labels[own] == after.exits[level][own]).all()


def test_one_fold_alone_has_no_exits() -> None:
    row, _ = made_rows(np.random.default_rng(0), 0.5, 1)
    found = answered({0: row[0, 0]})
    assert not found.exits
    assert np.isnan(alone({(0, 0): row[0, 0]}, 5).metrics["exits at 5%"].value)


def test_more_exits_at_a_laxer_level() -> None:
    row, _ = made_rows(np.random.default_rng(0), 1.0, 1)
    found = answered({fold: row[fold, 0] for fold in range(4)})
    shares = [(found.exits[level] != DEFERRED).mean() for level in sorted(found.exits)]
    assert shares == sorted(shares)
    assert shares[-1] > 0

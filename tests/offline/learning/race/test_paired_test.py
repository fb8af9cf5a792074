"""Who wins: intervals of paired differences, all finalists considered."""

from __future__ import annotations

import numpy as np
import pytest

from offline.learning.race.paired_test import ScoreTable, best_first, compared, holm, marks, winner

ROWS = 400


def table(seed: int, **separation: float) -> ScoreTable:
    """Recipes whose scores share most of their noise, as those of models that saw the same rows do."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(ROWS) < 0.4).astype(np.int8)
    shared = rng.normal(size=ROWS)
    scores = {
        name: ((labels - 0.5) * away + 0.9 * shared + 0.44 * rng.normal(size=ROWS))[None]
        for name, away in separation.items()
    }
    return ScoreTable(labels, [str(row // 2) for row in range(ROWS)], scores, {})


def compare(found: ScoreTable, seed: int = 0):
    rng = np.random.default_rng(seed)
    return compared(found, "lora", false_alarm_rate=0.02, level=0.95, repetitions=200, rng=rng)


def test_a_much_better_recipe_wins_and_one_that_is_a_little_better_does_not() -> None:
    found = table(0, lora=2.0, much=3.0, little=2.02)
    comparisons = compare(found)
    assert comparisons["much"].better
    assert comparisons["much"].lower > 0
    assert not comparisons["little"].better
    assert winner(marks(found, 0.02), comparisons, "lora") == "much"


def test_the_simplest_stays_if_nothing_beats_it() -> None:
    found = table(0, lora=2.0, other=2.0, worse=1.0)
    assert winner(marks(found, 0.02), compare(found), "lora") == "lora"


def test_of_two_that_beat_the_simplest_the_one_with_more_exits_wins() -> None:
    found = table(0, lora=1.5, good=2.5, best=3.5)
    comparisons = compare(found)
    assert all(one.better for one in comparisons.values())
    assert winner(marks(found, 0.02), comparisons, "lora") == "best"


def test_equal_recipes_beat_the_simplest_no_more_often_than_the_level_says() -> None:
    draws = 80
    beaten = sum(
        winner(marks(found, 0.02), compare(found), "lora") != "lora"
        for found in (table(draw, lora=2.0, one=2.0, two=2.0, three=2.0) for draw in range(draws))
    )
    # One-sided 2.5 % for all finalists together, and three standard errors.
    assert beaten / draws <= 0.025 + 3 * np.sqrt(0.025 * 0.975 / draws)


def test_holms_levels_are_those_of_the_textbook() -> None:
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}, 0.05)
    # Rejected: d at 0.05 / 4 and a at 0.05 / 3; c fails at 0.05 / 2, and b with it.
    assert found == pytest.approx({"d": 0.05 / 4, "a": 0.05 / 3, "c": 0.05 / 2, "b": 0.05 / 2})


def test_a_recipe_is_placed_by_exits_and_log_loss_together() -> None:
    labels = np.array([0, 1] * 50)
    right = (labels - 0.5) * 8
    wavering = np.where(np.arange(100) < 20, -right, right)
    scores = {"wavering": wavering[None], "right": right[None], "knows nothing": np.zeros((1, 100))}
    found = marks(ScoreTable(labels, [str(row) for row in range(100)], scores, {}), 0.02)
    # So sure of a fifth that is wrong is worse than to know nothing.
    assert best_first(found) == ["right", "knows nothing", "wavering"]
    assert found["right"].value == pytest.approx((1 + 1 - np.log1p(np.exp(-4)) / np.log(2)) / 2)
    assert found["knows nothing"].value == pytest.approx(0.0)


def test_several_seeds_are_averaged_under_the_same_draws() -> None:
    found = table(0, lora=2.0, other=2.5)
    twice = ScoreTable(
        found.labels, found.groups, {name: np.concatenate([s, s]) for name, s in found.scores.items()}, {}
    )
    assert compare(twice) == compare(found)


def test_without_the_simplest_there_is_nothing_to_beat() -> None:
    found = table(0, other=2.5)
    assert compare(found) == {}

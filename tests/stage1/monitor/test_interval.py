"""The interval holds the risk, at whatever time it is looked at."""

from __future__ import annotations

import numpy as np

from stage1.monitor.interval import fresh_games, games_after, interval


def test_it_begins_with_everything_and_narrows_around_the_risk() -> None:
    games, rng = fresh_games(), np.random.default_rng(0)
    assert interval(games, 0.1) == (0.0, 1.0)
    outside = 0
    for _ in range(800):
        miss = rng.random() < 0.05
        games = games_after(games, float(miss), 1.0, 1.0)
        low, high = interval(games, 0.1)
        outside += not low <= 0.05 <= high
    assert outside == 0
    assert 0.015 <= low < 0.05 < high <= 0.13


def test_it_is_wrong_no_more_often_than_promised() -> None:
    wrong = 0
    for seed in range(40):
        games, rng = fresh_games(), np.random.default_rng((1, seed))
        for miss in rng.random(200) < 0.03:
            games = games_after(games, float(miss), 1.0, 1.0)
        low, high = interval(games, 0.2)
        wrong += not low <= 0.03 <= high
    assert wrong <= 12

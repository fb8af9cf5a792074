"""Drift of scores, without labels."""

from __future__ import annotations

import math

import numpy as np

from stage1.monitor.martingale import ScoreMartingale


def fed(scores: np.ndarray, seed: int = 0) -> ScoreMartingale:
    martingale, uniform = ScoreMartingale(), np.random.default_rng(seed)
    for score in scores:
        martingale.add(float(score), float(uniform.random()))
    return martingale


def test_it_begins_at_one_and_stays_low_while_nothing_changes() -> None:
    """Also with scores of few values, which ties decide."""
    assert math.isclose(ScoreMartingale().log_wealth, 0, abs_tol=1e-12)
    rng = np.random.default_rng(2)
    highest = [max(fed(rng.normal(size=n).round(1), seed).log_wealth for n in (200, 600)) for seed in range(8)]
    assert max(highest) < math.log(100)


def test_a_shift_is_seen() -> None:
    rng = np.random.default_rng(3)
    assert fed(np.concatenate([rng.normal(size=400), rng.normal(1.0, size=300)])).log_wealth > math.log(100)


def test_it_goes_on_where_it_was() -> None:
    scores, uniforms = np.random.default_rng(4).normal(size=(2, 100))
    uniforms = np.abs(uniforms) % 1
    whole, half = ScoreMartingale(), ScoreMartingale()
    for place, (score, uniform) in enumerate(zip(scores, uniforms, strict=True)):
        if place == 50:
            half = ScoreMartingale(half.counts, half.logs)
        whole.add(float(score), float(uniform))
        half.add(float(score), float(uniform))
    assert (half.counts, half.logs) == (whole.counts, whole.logs)
    assert whole.seen == 100


def test_what_lies_outside_the_grid_is_ranked_at_its_ends() -> None:
    martingale = fed(np.array([-1e9, 1e9]))
    assert (martingale.counts[0], martingale.counts[-1]) == (1, 1)


def test_the_scores_to_which_they_have_moved_are_told_from_the_others() -> None:
    rng = np.random.default_rng(3)
    martingale = ScoreMartingale()
    assert not martingale.leads(0.0)
    for score in [*rng.normal(0, 1, 400), *rng.normal(-3, 0.5, 100)]:
        martingale.add(float(score), float(rng.random()))
    assert martingale.leads(-3.0)
    assert not martingale.leads(0.0)
    assert not martingale.leads(3.0)

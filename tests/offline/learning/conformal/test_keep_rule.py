"""Whether heads are kept: halves that share no group, noise that is kept no more often than is said, and power."""

from __future__ import annotations

import math

import numpy as np
import pytest

from offline.learning.conformal.keep_rule import CONFIDENCE, HeadGain, halves, head_gain, rates_around
from stage1.metrics.exits_at_risk import ExitShares

DRAWS = 150
SNAPSHOTS = 6


class TestHalves:
    def test_share_no_group_and_both_have_both_classes(self) -> None:
        rng = np.random.default_rng(0)
        groups = [f"drive {i}" for i in rng.integers(40, size=200)]
        labels = np.array([int(group[-1] in "012") for group in groups], np.int8)
        choose, judge = halves(labels, groups, seed=3)
        assert sorted([*choose, *judge]) == list(range(200))
        assert not {groups[i] for i in choose} & {groups[i] for i in judge}
        for half in (choose, judge):
            assert set(labels[half].tolist()) == {0, 1}
        drives = [len({groups[i] for i in half}) for half in (choose, judge)]
        assert abs(drives[0] - drives[1]) <= 2

    @pytest.mark.parametrize("seed", range(8))
    def test_those_that_choose_have_both_classes_however_few_groups_there_are(self, seed: int) -> None:
        groups, labels = ["roadwork", "roadwork too", "both", "both"], np.array([1, 1, 1, 0], np.int8)
        assert set(labels[halves(labels, groups, seed)[0]].tolist()) == {0, 1}

    def test_are_the_same_whatever_the_order_of_the_rows(self) -> None:
        groups = [f"drive {i // 3}" for i in range(60)]
        labels = (np.arange(60) % 2).astype(np.int8)
        turned = np.random.default_rng(1).permutation(60)
        first = {groups[i] for i in halves(labels, groups, 0)[1]}
        assert first == {groups[turned[i]] for i in halves(labels[turned], [groups[i] for i in turned], 0)[1]}


def kept(rng: np.random.Generator, rows: int, *, better: float) -> bool:
    """One night: on one half the best of some snapshots and the best of some epochs are chosen, on the other compared.

    All of them are the same signal with noise of their own, but for what the snapshots are better by.
    """
    labels = (rng.random(rows) < 0.4).astype(np.int8)
    groups = [str(i) for i in range(rows)]
    signal = rng.normal(labels * (2.5 + better))
    plain = signal - labels * better
    choose, judge = halves(labels, groups, seed=0)

    def best_of(scores: list[np.ndarray]) -> np.ndarray:
        return max(scores, key=lambda s: ExitShares.of(s[choose], labels[choose], 0.02).mean(rates_around(0.02)))

    epochs = best_of([plain + rng.normal(0, 0.3, rows) for _ in range(SNAPSHOTS)])
    steps = best_of([signal + rng.normal(0, 0.3, rows) for _ in range(SNAPSHOTS)])
    start, end = (ExitShares.of(s[judge], labels[judge], 0.02) for s in (epochs, steps))
    return head_gain(start, end, [groups[i] for i in judge], alpha=0.02, seed=0).kept


class TestKeepRule:
    def test_pure_noise_is_kept_no_more_often_than_is_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("offline.learning.conformal.keep_rule.REPETITIONS", 100)
        rng = np.random.default_rng(1)
        rate = sum(kept(rng, 400, better=0.0) for _ in range(DRAWS)) / DRAWS
        said = 1 - CONFIDENCE
        assert rate <= said + 3 * math.sqrt(said * (1 - said) / DRAWS)

    def test_a_real_gain_is_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("offline.learning.conformal.keep_rule.REPETITIONS", 100)
        rng = np.random.default_rng(5)
        assert sum(kept(rng, 900, better=0.8) for _ in range(20)) >= 18

    def test_rows_of_one_class_keep_nothing(self) -> None:
        shares = ExitShares.of(np.arange(6.0), np.zeros(6, np.int8), 0.02)
        found = head_gain(shares, shares, list("abcdef"), alpha=0.02, seed=0)
        assert math.isnan(found.lower)
        assert not found.kept
        assert not HeadGain(0.0, 0.0).kept

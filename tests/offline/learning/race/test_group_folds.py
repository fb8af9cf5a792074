"""Folds by group."""

from __future__ import annotations

import numpy as np

from offline.learning.race.group_folds import group_folds


def drawn(seed: int, groups: int = 150) -> tuple[list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, groups)
    names = np.repeat([f"drive {number}" for number in range(groups)], sizes)
    return names.tolist(), np.repeat(rng.random(groups) < 0.3, sizes).astype(np.int8)


def test_no_group_is_in_two_folds_and_each_fold_has_its_share_of_both_classes() -> None:
    groups, labels = drawn(0)
    fold = group_folds(groups, labels, 5, seed=0)
    assert all(len(set(fold[np.array(groups) == name])) == 1 for name in set(groups))
    for label in (0, 1):
        counts = np.bincount(fold[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 6


def test_the_order_of_the_rows_does_not_move_a_group() -> None:
    groups, labels = drawn(1)
    turned = np.random.default_rng(0).permutation(len(groups))
    fold = group_folds(groups, labels, 4, seed=0)
    again = group_folds([groups[at] for at in turned], labels[turned], 4, seed=0)
    assert (fold[turned] == again).all()


def test_the_seed_moves_ties() -> None:
    groups, labels = [str(number) for number in range(60)], np.arange(60) % 2
    assert (group_folds(groups, labels, 3, 0) != group_folds(groups, labels, 3, 1)).any()

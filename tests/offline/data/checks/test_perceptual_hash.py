"""Distances of perceptual hashes: what the tiles find is what comparing one by one finds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from offline.data.checks.perceptual_hash import COLUMNS, ROWS, join_near, nearest, words_of


def bits(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def some_hashes(count: int, *, seed: int = 0, noise: int = 20) -> list[str]:
    """Hashes in clusters: a few places, each seen with a few bits changed."""
    rng = np.random.default_rng(seed)
    places = [int.from_bytes(rng.bytes(32)) for _ in range(count // 3 + 1)]
    changed = [sum(1 << int(bit) for bit in rng.choice(256, noise, replace=False)) for _ in range(count)]
    return [f"{places[n % len(places)] ^ changed[n]:064x}" for n in range(count)]


@pytest.mark.parametrize("limit", [0, 36, 40, 110])
def test_components_are_those_of_all_pairs(limit: int) -> None:
    hashes = some_hashes(ROWS + 70)
    expected = list(range(len(hashes)))
    for first, second in combinations(range(len(hashes)), 2):
        if bits(hashes[first], hashes[second]) <= limit:
            expected = [expected[first] if label == expected[second] else label for label in expected]
    start = np.arange(len(hashes))
    found = join_near(start, start, words_of(hashes), limit).tolist()
    assert len(set(zip(expected, found, strict=True))) == len(set(expected)) == len(set(found))


def test_the_smallest_distance_is_found_and_named() -> None:
    first, second = some_hashes(ROWS + 3, seed=1), some_hashes(40, seed=2)
    second[17] = f"{int(first[ROWS + 1], 16) ^ 0b111:064x}"
    assert nearest(words_of(first), words_of(second)) == (3, ROWS + 1, 17)
    assert nearest(words_of(second), words_of(first)) == (3, 17, ROWS + 1)


def test_hashes_that_differ_in_every_bit_are_as_far_as_can_be() -> None:
    assert nearest(words_of(["0" * 64]), words_of(["f" * 64])) == (256, 0, 0)


def test_nothing_is_nearest_to_nothing() -> None:
    assert nearest(words_of([]), words_of(["0" * 64])) is None
    assert nearest(words_of(["0" * 64]), words_of([])) is None


def test_a_pair_beyond_the_first_tile_of_columns_is_found() -> None:
    rng = np.random.default_rng(3)
    hashes = [rng.bytes(32).hex() for _ in range(COLUMNS + 9)]
    hashes[-1] = hashes[2]
    labels = join_near(np.arange(len(hashes)), np.arange(len(hashes)), words_of(hashes), 40)
    assert labels[-1] == labels[2]
    assert len(set(labels.tolist())) == len(hashes) - 1

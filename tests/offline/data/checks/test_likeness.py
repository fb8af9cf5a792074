"""Likeness: what was found once for all rows is what is found for any of them by comparing all with all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.data.checks import likeness as likeness_module
from offline.data.checks import perceptual_hash
from offline.data.checks.likeness import Likeness
from offline.splits.settings import Split
from offline.splits.splits_file import SplitRow, SplitSet, nearest_of

LIMIT = 40
# Long chains, copies, blank pictures: places on a line, each some steps of 12 bits from the first one.
STEPS = st.lists(st.none() | st.tuples(st.integers(0, 3), st.integers(0, 20)), min_size=1, max_size=30)


def digest(place: int, step: int) -> str:
    far = np.random.default_rng(place).bytes(32)
    return f"{int.from_bytes(far) ^ ((1 << 12 * step) - 1):064x}"


def named(steps: list[tuple[int, int] | None]) -> dict[str, str | None]:
    return {f"{n}.jpg": None if step is None else digest(*step) for n, step in enumerate(steps)}


def bits(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def by_brute_force(hashes: dict[str, str | None], rows: list[str]) -> set[frozenset[str]]:
    part = {row: frozenset([row]) for row in rows}
    for one, other in combinations(rows, 2):
        first, second = hashes[one], hashes[other]
        if first is not None and second is not None and bits(first, second) <= LIMIT:
            both = part[one] | part[other]
            part |= dict.fromkeys(both, both)
    return set(part.values())


@given(STEPS, st.randoms(use_true_random=False))
def test_rows_are_joined_as_if_there_were_no_others(steps: list[tuple[int, int] | None], random: object) -> None:
    hashes = named(steps)
    likeness = Likeness(hashes, LIMIT)
    for share in (1.0, 0.7, 0.3):
        rows = [row for row in hashes if random.random() < share]  # type: ignore[attr-defined]
        labels = likeness.join(np.arange(len(rows)), rows).tolist()
        parts: dict[int, set[str]] = {}
        for row, label in zip(rows, labels, strict=True):
            parts.setdefault(label, set()).add(row)
        assert set(map(frozenset, parts.values())) == by_brute_force(hashes, rows)


def test_what_is_joined_already_stays_joined() -> None:
    hashes = named([(0, 0), (1, 0), (2, 0), (2, 1)])
    assert Likeness(hashes, LIMIT).join(np.asarray([0, 1, 1, 3]), list(hashes)).tolist() == [0, 1, 1, 1]


def test_nothing_is_joined_where_looks_are_not_compared() -> None:
    hashes = named([(0, 0), (0, 0)])
    assert Likeness(hashes, None).join(np.arange(2), list(hashes)).tolist() == [0, 1]


def test_pictures_are_compared_once_however_often_groups_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    join_near = perceptual_hash.join_near

    def counted(labels: object, places: object, words: np.ndarray, limit: int) -> object:
        compared.append(words.shape[1])
        return join_near(labels, places, words, limit)  # type: ignore[arg-type]

    monkeypatch.setattr(likeness_module, "join_near", counted)
    hashes = named([(place, step) for place in range(50) for step in (0, 3, 6)])
    likeness = Likeness(hashes, LIMIT)
    rows = list(hashes)
    likeness.join(np.arange(150), rows)
    likeness.join(np.arange(149), rows[1:])
    likeness.join(np.arange(75), rows[::2])
    # Of the second rows only those of the place that is not whole, of the third those of the places with two rows left.
    assert compared == [150, 2, 50]


@given(STEPS, st.integers(2, 4))
def test_chains_name_the_same_nearest_rows_of_two_sets(steps: list[tuple[int, int] | None], parts: int) -> None:
    hashes = named(steps)
    names: tuple[Split, ...] = ("train", "val_select", "val_calib", "test")
    sets: dict[Split, SplitSet] = {
        name: SplitSet(
            rows=tuple(
                SplitRow(row=row, group=row, phash=phash, label=0)
                for n, (row, phash) in enumerate(hashes.items())
                if n % parts == number
            ),
            groups=0,
            positives=0,
        )
        for number, name in enumerate(names)
    }
    alone, told = nearest_of(sets, LIMIT), nearest_of(sets, LIMIT, Likeness(hashes, LIMIT).chains)
    assert (alone is None) == (told is None)
    if alone is not None and told is not None:
        assert (alone.bits, *map(hashes.get, alone.rows)) == (told.bits, *map(hashes.get, told.rows))

"""Placing groups: shares are kept for every kind of row, and the draw is the same everywhere."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.splits.balanced_placement import place

SHARES = {"a": 0.5, "b": 0.3, "c": 0.2}
# A changed hash or order would quietly move last year's training images into calibration.
PINNED = ["left", "left", "right", "right", "right", "left", "left", "right"]


def test_the_draw_is_pinned_across_machines() -> None:
    groups = {f"drive {number}": {"row": 1 + number % 2} for number in range(8)}
    placed = place(groups, {"left": 0.5, "right": 0.5}, seed=7)
    assert [placed[f"drive {number}"] for number in range(8)] == PINNED


@given(
    sizes=st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 9), min_size=1, max_size=40),
    seed=st.integers(0, 5),
)
def test_no_bin_is_overfull_by_more_than_one_group(sizes: dict[str, int], seed: int) -> None:
    placed = place({name: {"row": size} for name, size in sizes.items()}, SHARES, seed)
    assert placed.keys() == sizes.keys()
    total, largest = sum(sizes.values()), max(sizes.values())
    for name, share in SHARES.items():
        assert sum(sizes[g] for g, home in placed.items() if home == name) <= share * total + largest


@given(
    contents=st.dictionaries(
        st.text(min_size=1, max_size=3),
        st.dictionaries(st.sampled_from(["x", "y", "z"]), st.integers(1, 5), min_size=1),
        min_size=1,
        max_size=25,
    ),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_stopping_and_going_on_places_as_going_through(
    contents: dict[str, dict[str, int]], seed: int, data: st.DataObject
) -> None:
    whole = place(contents, SHARES, seed, needed=("x", "y"))
    stop = data.draw(st.integers(0, len(whole)))
    done = dict(list(whole.items())[:stop])
    held: dict[str, Counter[str]] = {name: Counter() for name in SHARES}
    for group, home in done.items():
        held[home].update(contents[group])
    rest = {name: what for name, what in contents.items() if name not in done}
    assert list((done | place(rest, SHARES, seed, placed=held, needed=("x", "y"))).items()) == list(whole.items())


def test_large_and_small_groups_are_shared_alike() -> None:
    """Were all long drives in one set, its rows would not be like those of another."""
    sizes = {f"long {n}": 30 for n in range(40)} | {f"short {n}": 1 for n in range(400)}
    placed = place({name: {"row": size} for name, size in sizes.items()}, SHARES, seed=0)
    for home, share in SHARES.items():
        assert sum(placed[f"long {n}"] == home for n in range(40)) == pytest.approx(40 * share, abs=1)
        assert sum(placed[f"short {n}"] == home for n in range(400)) == pytest.approx(400 * share, abs=20)


def test_every_kind_is_shared_not_only_the_total() -> None:
    rng = np.random.default_rng(0)
    groups = {str(n): dict(Counter(rng.choice(["x", "y", "z"], rng.integers(1, 6)).tolist())) for n in range(900)}
    placed = place(groups, SHARES, seed=0)
    total = Counter[str]()
    held = {name: Counter[str]() for name in SHARES}
    for name, home in placed.items():
        total.update(groups[name])
        held[home].update(groups[name])
    for home, share in SHARES.items():
        assert all(held[home][kind] == pytest.approx(share * total[kind], abs=5) for kind in "xyz")


def test_a_scarce_kind_comes_into_every_bin_if_there_are_groups_enough() -> None:
    groups: dict[str, dict[str, int]] = {f"plain {n}": {"plain": 5} for n in range(30)}
    groups |= {f"rare {n}": {"rare": 1} for n in range(3)}
    placed = place(groups, {"a": 0.9, "b": 0.05, "c": 0.05}, seed=0, needed=("rare", "plain"))
    assert {placed[f"rare {n}"] for n in range(3)} == {"a", "b", "c"}


def test_what_is_placed_already_counts() -> None:
    placed = place({"new": {"row": 1}}, {"a": 0.5, "b": 0.5}, seed=0, placed={"a": {"row": 3}, "b": {"row": 2}})
    assert placed == {"new": "b"}

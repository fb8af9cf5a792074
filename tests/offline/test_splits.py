"""Splits: groups stay whole, shares are kept, the draw is the same everywhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from offline.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits import SPLITS, Splits, SplitSettings, assign, split


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., Dataset]:
    """A data set of groups of one to three rows, every second group with roadwork."""

    def make(groups: int, *, prevalence_of: int = 2) -> Dataset:
        rows = [
            Row(image=f"{group}_{frame}.jpg", label=int(group % prevalence_of == 0), group=f"drive {group}")
            for group in range(groups)
            for frame in range(1 + group % 3)
        ]
        for row in rows:
            (tmp_path / row.image).write_bytes(b"pixels")
        return Dataset(tmp_path, tuple(rows))

    return make


def test_every_row_is_in_one_split_and_no_group_in_two(dataset: Callable[..., Dataset]) -> None:
    data = dataset(300)
    splits = split(data, SplitSettings())
    assert sorted(row for s in splits.sets.values() for row in s.rows) == sorted(data.ids)
    groups = [set(data.pick(splits.sets[name].rows).groups) for name in SPLITS]
    assert sum(map(len, groups)) == len(set.union(*groups))
    splits.check(data)


def test_shares_and_prevalence_are_kept(dataset: Callable[..., Dataset]) -> None:
    data, settings = dataset(600), SplitSettings()
    for name, described in split(data, settings).sets.items():
        assert len(described.rows) / len(data) == pytest.approx(settings.shares[name], abs=0.01)
        assert described.positives / len(described.rows) == pytest.approx(data.labels.mean(), abs=0.02)


def test_the_order_of_rows_does_not_matter(dataset: Callable[..., Dataset]) -> None:
    data = dataset(120)
    reordered = Dataset(data.root, tuple(reversed(data.rows)))
    first, second = split(data, SplitSettings()), split(reordered, SplitSettings())
    assert all(set(first.sets[name].rows) == set(second.sets[name].rows) for name in SPLITS)


PINNED = ["left", "left", "right", "right", "right", "left", "left", "right"]


def test_the_draw_is_pinned_across_machines() -> None:
    """A changed hash or order would quietly move last year's training images into calibration."""
    sizes = {f"drive {number}": 1 + number % 2 for number in range(8)}
    placed = assign(sizes, {"left": 0.5, "right": 0.5}, seed=7)
    assert [placed[f"drive {number}"] for number in range(8)] == PINNED


def test_another_seed_is_another_draw(dataset: Callable[..., Dataset]) -> None:
    data = dataset(120)
    assert split(data, SplitSettings(seed=1)).sets != split(data, SplitSettings(seed=2)).sets


def test_folds_of_val_calib_share_no_group_and_cover_it(dataset: Callable[..., Dataset]) -> None:
    data = dataset(300)
    splits = split(data, SplitSettings(calibration_folds=3))
    groups = [set(data.pick(fold).groups) for fold in splits.folds]
    assert len(splits.folds) == 3
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]
    assert sorted(row for fold in splits.folds for row in fold) == sorted(splits.sets["val_calib"].rows)


def test_too_few_groups_is_an_error_that_says_what_to_do(dataset: Callable[..., Dataset]) -> None:
    with pytest.raises(DatasetError, match="too few groups"):
        split(dataset(4), SplitSettings())


def test_a_leak_in_splits_json_is_caught_at_load(dataset: Callable[..., Dataset], tmp_path: Path) -> None:
    data = dataset(120)
    tree = split(data, SplitSettings()).model_dump(mode="json")
    several = next(g for g in data.groups if data.groups.count(g) == 3)
    rows = [row.image for row in data.rows if row.group == several]
    for described in tree["sets"].values():
        described["rows"] = [row for row in described["rows"] if row not in rows]
    tree["sets"]["train"]["rows"] += rows[:2]
    tree["sets"]["val_calib"]["rows"] += rows[2:]
    (tmp_path / "splits.json").write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match=several):
        Splits.read(tmp_path / "splits.json").check(data)


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="sum to"):
        SplitSettings(train=0.9)


@given(
    sizes=st.dictionaries(st.text(min_size=1, max_size=4), st.integers(1, 9), min_size=1, max_size=40),
    seed=st.integers(0, 5),
)
def test_no_bin_is_overfull_by_more_than_one_group(sizes: dict[str, int], seed: int) -> None:
    shares = {"a": 0.5, "b": 0.3, "c": 0.2}
    placed = assign(sizes, shares, seed)
    assert placed.keys() == sizes.keys()
    total, largest = sum(sizes.values()), max(sizes.values())
    for name, share in shares.items():
        assert sum(sizes[g] for g, home in placed.items() if home == name) <= share * total + largest


@pytest.mark.parametrize("folds", [9, 40])
def test_more_folds_than_val_calib_has_groups_for_is_an_error_that_says_what_to_do(
    dataset: Callable[..., Dataset], folds: int
) -> None:
    with pytest.raises(DatasetError, match=f"of {folds} would have .*: too few groups"):
        split(dataset(40), SplitSettings(calibration_folds=folds))


def test_every_fold_has_both_classes(dataset: Callable[..., Dataset]) -> None:
    data = dataset(300)
    for fold in split(data, SplitSettings(calibration_folds=5)).folds:
        assert set(data.pick(fold).labels.tolist()) == {0, 1}


def leaks(splits: Splits, data: Dataset) -> dict[str, dict[str, object]]:
    """Changes of the file by which a row that trained, or a dependent one, would certify."""
    folds = [list(fold) for fold in splits.folds]
    whole_group = [row.image for row in data.rows if row.group == data.by_id[folds[0][0]].group]
    return {
        "a training row in a fold": {"folds": [[*folds[0], splits.sets["train"].rows[0]], folds[1]]},
        "a row in two folds": {"folds": [folds[0], [*folds[1], folds[0][0]]]},
        "a fold forgotten": {"folds": folds[:1]},
        "a group in two folds": {
            "folds": [[row for row in folds[0] if row not in whole_group[1:]], [*folds[1], *whole_group[1:]]]
        },
    }


@pytest.mark.parametrize(
    "leak", ["a training row in a fold", "a row in two folds", "a fold forgotten", "a group in two folds"]
)
def test_a_leak_through_the_folds_is_caught_at_load(dataset: Callable[..., Dataset], tmp_path: Path, leak: str) -> None:
    # Groups of three rows only, so that every fold begins with a row of several.
    data = dataset(360)
    data = Dataset(data.root, tuple(row for row in data.rows if data.groups.count(row.group) == 3))
    splits = split(data, SplitSettings(calibration_folds=2))
    splits.check(data)
    tree = splits.model_dump(mode="json") | leaks(splits, data)[leak]
    (tmp_path / "splits.json").write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match="fold"):
        Splits.read(tmp_path / "splits.json").check(data)


def test_a_row_in_two_splits_is_caught_at_load(dataset: Callable[..., Dataset]) -> None:
    data = dataset(120)
    splits = split(data, SplitSettings())
    twice = splits.sets["train"].model_copy(update={"rows": (*splits.sets["train"].rows, splits.sets["train"].rows[0])})
    with pytest.raises(DatasetError, match="a row is in two splits"):
        splits.model_copy(update={"sets": splits.sets | {"train": twice}}).check(data)


def test_rows_that_are_gone_from_the_data_are_named(dataset: Callable[..., Dataset]) -> None:
    data = dataset(120)
    splits = split(data, SplitSettings())
    with pytest.raises(DatasetError, match="1 rows are gone"):
        splits.check(Dataset(data.root, data.rows[1:]))

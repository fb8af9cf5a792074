"""Which photographs train, choose and are held in each fold."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.learning.data.photographs import CITIES, PhotographSizes, city_folds, photographs
from benchmarks.learning.data.task import Task
from offline.data.sources.source import read_dataset

# City, its frames without and with roadwork.
FRAMES = {"a": (9, 3), "b": (6, 4), "c": (3, 9), "d": (2, 8), "e": (0, 7), "f": (0, 6), "g": (0, 5), "h": (1, 4)}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("photographs")
    lines = ["image,label,source,group"]
    for city, counts in FRAMES.items():
        for label, count in enumerate(counts):
            lines += [f"{city}{label}{i}.jpg,{label},{CITIES},{CITIES}:{city}" for i in range(count)]
    lines += [f"o{i}.jpg,0,elsewhere,elsewhere:{i}" for i in range(40)]
    (home / "labels.csv").write_text("\n".join(lines) + "\n")
    for line in lines[1:]:
        (home / line.partition(",")[0]).write_bytes(b"")
    return home


@pytest.fixture
def task(directory: Path) -> Task:
    return photographs(directory, PhotographSizes(city_frames=4, other_frames=20, other_select=5))


def test_every_frame_of_a_city_is_held_in_exactly_one_fold(task: Task, directory: Path) -> None:
    held = [row.image for fold in task.folds for row in fold.rows if row.metadata["part"] == "test"]
    expected = [row.image for row in read_dataset(directory).rows if row.source == CITIES]
    assert sorted(held) == sorted(expected)


def test_no_group_is_in_two_sets_of_a_fold(task: Task) -> None:
    for fold in task.folds:
        parts: dict[str, set[str]] = {}
        for row in fold.rows:
            parts.setdefault(row.group, set()).add(row.metadata["part"])
        assert {len(found) for found in parts.values()} == {1}


def test_every_set_of_every_fold_has_both_classes(task: Task) -> None:
    for fold in task.folds:
        for part in ("train", "val_select", "test"):
            assert {row.label for row in fold.rows if row.metadata["part"] == part} == {0, 1}


def test_frames_of_a_city_that_train_are_few_and_all_are_held(task: Task) -> None:
    for fold in task.folds:
        train = [row for row in fold.rows if row.metadata["part"] == "train" and row.source == CITIES]
        assert (
            max(sum(row.group == group and row.label == 1 for row in train) for group in {r.group for r in train}) <= 4
        )


def test_negatives_are_shared_among_folds(directory: Path) -> None:
    folds = city_folds(read_dataset(directory))
    assert len(folds) == 4
    assert all(sum(FRAMES[city.rpartition(":")[2]][0] for city in fold) for fold in folds)

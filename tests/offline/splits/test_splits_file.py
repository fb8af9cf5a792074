"""`splits.json`: a file by which something would cross from one set to another is refused at load."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError
from offline.splits import splits_file
from offline.splits.assign import Looks, split
from offline.splits.settings import SPLITS, SplitSettings
from offline.splits.split_ledger import Ledger
from offline.splits.splits_file import Splits
from stage1.errors import ArtifactError

Tree = dict[str, Any]
SETTINGS = SplitSettings(calibration_folds=2)


@pytest.fixture
def data(dataset: Callable[..., Dataset], drive: Callable[..., list[Row]]) -> Dataset:
    """Drives of three rows, so that every set and fold begins with a row of several."""
    return dataset(row for number in range(60) for row in drive(number, frames=3, gps="1,1"))


@pytest.fixture
def splits(data: Dataset, looks: Callable[..., Looks]) -> Splits:
    # The second drive looks like the first, so that an effective group is larger than a declared one.
    same = [("00000_0.jpg", "00003_0.jpg")]
    made, _ = split(data, looks(data, same), Ledger(), SETTINGS, "2026-01-01T00:00:00+00:00")
    return made


@pytest.fixture
def edited(splits: Splits, tmp_path: Path) -> Callable[[Callable[[Tree], None]], Splits]:
    """`splits.json` after somebody changed it by hand."""

    def edit(change: Callable[[Tree], None]) -> Splits:
        tree: Tree = splits.model_dump(mode="json")
        change(tree)
        (tmp_path / "splits.json").write_text(json.dumps(tree))
        return Splits.read(tmp_path / "splits.json")

    return edit


def move(tree: Tree, start: str, end: str, rows: Sequence[int] = (0,)) -> None:
    """Move rows of one set to another, in the folds too."""
    moved = [tree["sets"][start]["rows"][number] for number in rows]
    ids = {row["row"] for row in moved}
    tree["sets"][start]["rows"] = [row for row in tree["sets"][start]["rows"] if row["row"] not in ids]
    tree["sets"][end]["rows"] += moved
    if start == "val_calib":
        tree["folds"] = [[row for row in fold if row not in ids] for fold in tree["folds"]]
    if end == "val_calib":
        tree["folds"][0] += sorted(ids)


def test_what_was_split_passes(splits: Splits, data: Dataset, tmp_path: Path) -> None:
    splits.check(data)
    splits.write(tmp_path / "splits.json")
    assert Splits.read(tmp_path / "splits.json") == splits


def test_a_set_is_handed_out_in_its_effective_groups(splits: Splits, data: Dataset) -> None:
    found = {name: splits.dataset(data, name) for name in SPLITS}
    groups = {row.image: row.group for rows in found.values() for row in rows.rows}
    assert groups["00000_2.jpg"] == groups["00003_1.jpg"] == "drive 00000"
    assert {name: len(set(rows.groups)) for name, rows in found.items()} == {
        name: described.groups for name, described in splits.sets.items()
    }
    assert data.by_id["00003_1.jpg"].group == "drive 00003"


def test_the_file_says_what_was_drawn(splits: Splits, data: Dataset) -> None:
    tree = json.loads(splits.to_json())
    assert (tree["schema_version"], tree["data_sha256"], tree["hash_distance"]) == (3, data.sha256, 40)
    for name, described in tree["sets"].items():
        labels = [data.by_id[row["row"]].label for row in described["rows"]]
        assert (described["positives"], described["class_balance"]) == (sum(labels), sum(labels) / len(labels)), name
        assert sum(described["strata"].values()) == len(labels)
        assert len(described["difficulty"]) == 5
    assert tree["nearest"]["bits"] > 40
    assert tree["nearest"]["sets"][0] != tree["nearest"]["sets"][1]


CROSSINGS: dict[str, tuple[Callable[[Tree], None], str]] = {
    "a training row certifies": (lambda tree: move(tree, "train", "val_calib"), "is in train and in val_calib"),
    "a certifying row trains": (lambda tree: move(tree, "val_calib", "train"), "is in train and in val_calib"),
    "a test row chooses": (lambda tree: move(tree, "test", "val_select"), "is in val_select and in test"),
    "a row in two sets": (
        lambda tree: tree["sets"]["test"]["rows"].append(tree["sets"]["train"]["rows"][0]),
        "a row is in two splits: '0",
    ),
    "a training row in a fold": (
        lambda tree: tree["folds"][0].append(tree["sets"]["train"]["rows"][0]["row"]),
        "the folds of val_calib do not hold its rows",
    ),
    "a row in two folds": (
        lambda tree: tree["folds"][1].append(tree["folds"][0][0]),
        "the folds of val_calib do not hold its rows",
    ),
    "a fold forgotten": (lambda tree: tree["folds"].pop(), "the folds of val_calib do not hold its rows"),
    "a group in two folds": (
        lambda tree: tree["folds"][1].append(tree["folds"][0].pop(0)),
        "is in fold 1 of val_calib and in fold 2 of val_calib",
    ),
    "an empty set": (lambda tree: tree["sets"]["test"].update(rows=[]), "test would have 0 roadwork images of 0"),
}


@pytest.mark.parametrize("crossing", CROSSINGS)
def test_what_crosses_is_refused_at_load(
    edited: Callable[[Callable[[Tree], None]], Splits], data: Dataset, crossing: str
) -> None:
    change, message = CROSSINGS[crossing]
    with pytest.raises(DatasetError, match=message):
        edited(change).check(data)


def test_a_declared_group_in_two_sets_is_refused_whatever_the_file_calls_it(
    edited: Callable[[Callable[[Tree], None]], Splits], data: Dataset
) -> None:
    def rename(tree: Tree) -> None:
        tree["sets"]["train"]["rows"][0]["group"] = "another"
        move(tree, "train", "val_calib")

    with pytest.raises(DatasetError, match=r"declared group 'drive 0.*' is in train and in val_calib"):
        edited(rename).check(data)


def test_a_picture_of_one_set_that_looks_like_one_of_another_is_refused(
    edited: Callable[[Callable[[Tree], None]], Splits], data: Dataset
) -> None:
    def copy(tree: Tree) -> None:
        digest = int(tree["sets"]["train"]["rows"][2]["phash"], 16)
        tree["sets"]["test"]["rows"][1]["phash"] = f"{digest ^ 0b1011:064x}"

    with pytest.raises(DatasetError, match=r"of train and '.*' of test look the same: their hashes differ in 3 bits"):
        edited(copy).check(data)


def test_rows_that_are_gone_from_the_data_are_named(splits: Splits, data: Dataset) -> None:
    with pytest.raises(DatasetError, match="1 rows are gone"):
        splits.check(Dataset(data.root, data.rows[1:]))


def test_a_file_of_the_version_before_is_refused(splits: Splits, tmp_path: Path) -> None:
    tree = splits.model_dump(mode="json") | {"schema_version": 2}
    (tmp_path / "splits.json").write_text(json.dumps(tree))
    with pytest.raises(ArtifactError, match="schema_version is 2"):
        Splits.read(tmp_path / "splits.json")


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValidationError, match="sum to"):
        SplitSettings(train=0.9)


class TestTheMostSimilarPictures:
    def test_of_few_rows_are_named_however_little_alike(self, splits: Splits) -> None:
        assert splits.nearest == splits.compared
        assert splits.nearest is not None

    def test_of_many_rows_are_named_only_if_they_are_too_similar(
        self, edited: Callable[..., Splits], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(splits_file, "ALL_COMPARED", 10)
        assert edited(lambda _: None).compared is None

        def turn_three_bits(tree: Tree) -> None:
            digest = int(tree["sets"]["train"]["rows"][2]["phash"], 16)
            tree["sets"]["test"]["rows"][1]["phash"] = f"{digest ^ 0b1011:064x}"

        found = edited(turn_three_bits).compared
        assert found is not None
        assert (found.bits, set(found.sets)) == (3, {"train", "test"})


def test_the_file_has_a_line_for_each_row_whatever_rows_are_called(splits: Splits, tmp_path: Path) -> None:
    name = 'a"{"row":b\\n'
    part = splits.sets["train"]
    rows = (part.rows[0].model_copy(update={"row": name}), *part.rows[1:])
    named = splits.model_copy(update={"sets": {**splits.sets, "train": part.model_copy(update={"rows": rows})}})
    content = named.to_json()
    assert Splits.model_validate_json(content).sets["train"].rows[0].row == name
    lines = content.decode().splitlines()
    assert sum(line.startswith('{"row":') for line in lines) == 180
    assert len(lines) == 181
    # Indented it would be a fourth larger.
    assert len(content) < 0.8 * len(named.model_dump_json(indent=2))
    splits.write(tmp_path / "splits.json")
    assert Splits.read(tmp_path / "splits.json") == splits

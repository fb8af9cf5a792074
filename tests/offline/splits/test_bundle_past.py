"""What a published bundle did with rows, whatever version of the program wrote it down."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from offline.data.dataset import Dataset, Row
from offline.splits.assign import Looks, split
from offline.splits.bundle_past import PastRow, read_past, unseen
from offline.splits.settings import SPLITS, SplitSettings
from offline.splits.split_ledger import Home, Ledger
from offline.splits.splits_file import Splits
from stage1.errors import ArtifactError


@pytest.fixture
def splits(dataset: Callable[..., Dataset], drive: Callable[..., list[Row]], looks: Callable[..., Looks]) -> Splits:
    data = dataset(row for number in range(60) for row in drive(number))
    seen = looks(data)
    contents = {row: f"{number:064x}" for number, row in enumerate(data.ids)}
    asked = SplitSettings(calibration_folds=2)
    return split(data, Looks(seen.hashes, seen.scorer, seen.difficulty, contents), Ledger(), asked, "2026")[0]


def test_every_row_is_read_with_its_home_and_its_content(splits: Splits, tmp_path: Path) -> None:
    splits.write(tmp_path / "splits.json")
    past = read_past(tmp_path / "splits.json")
    assert {row.row: row.sha256 for row in past} == splits.contents
    assert {row.row: row.group for row in past} == splits.groups
    for number, fold in enumerate(splits.folds):
        assert {row.row for row in past if row.home == Home("val_calib", number)} == set(fold)
    assert {row.row for row in past if row.home == Home("train")} == set(splits.sets["train"].ids)
    assert sum(row.label or 0 for row in past) == sum(splits.sets[name].positives for name in SPLITS)


def test_a_bundle_of_the_version_before_knows_rows_by_their_paths(splits: Splits, tmp_path: Path) -> None:
    tree = json.loads(splits.to_json()) | {"schema_version": 2}
    del tree["places"]
    for described in tree["sets"].values():
        described["rows"] = [{key: row[key] for key in ("row", "group", "phash")} for row in described["rows"]]
    (tmp_path / "splits.json").write_text(json.dumps(tree))
    past = read_past(tmp_path / "splits.json")
    assert {row.row for row in past} == splits.groups.keys()
    assert {(row.sha256, row.label) for row in past} == {(None, None)}


@pytest.mark.parametrize("content", [None, "splits", '{"schema_version": 1}', '{"schema_version": 3}'])
def test_what_cannot_be_read_says_which_file_it_is(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "splits.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"splits\.json"):
        read_past(tmp_path / "splits.json")


def past_row(row: str, content: str | None, split: str) -> PastRow:
    return PastRow(row, content, 1, row, Home(split))  # type: ignore[arg-type]


def test_a_test_row_that_another_bundle_trained_on_under_another_name_was_seen() -> None:
    contents = {"a": "1", "b": "2", "c": "3"}
    past = [past_row("x", "1", "train"), past_row("y", "2", "test"), past_row("c", None, "val_calib")]
    assert unseen(["a", "b", "c", "d"], contents, past, "test") == ["b", "d"]
    assert unseen(["a", "b", "c", "d"], contents, past, "train") == ["a", "d"]

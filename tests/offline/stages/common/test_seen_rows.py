"""A stage sees the sets and the columns that it declares; the hash of its rows is of what it sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offline.data.dataset import Dataset, Row
from offline.errors import DatasetError, PipelineError
from offline.splits.settings import SPLITS, Split
from offline.splits.splits_file import LostRows, RevisitedPlaces, SplitRow, Splits, SplitSet
from offline.stages.common.seen_rows import LABELLED, PICTURES, RowsOf, Seen

PLACES = RevisitedPlaces(places=1, in_train=0, roadwork_places=1, roadwork_in_train=0, rows_without_place=0)


def row(name: str, **changes: Any) -> Row:
    metadata = {"weather": "rain", "info.daytime": "night"}
    plain = {"image": name, "label": 1, "group": f"drive {name}", "source": "car", "metadata": metadata}
    return Row(**{**plain, **changes})


def night(home: Path, *, changed: dict[str, Row] | None = None, contents: dict[str, str] | None = None) -> Dataset:
    """Two rows a set, and the splits of them in the directory."""
    home.mkdir(exist_ok=True)
    names = {f"{name}{number}.jpg": name for name in SPLITS for number in range(2)}
    digests = dict.fromkeys(names, "0" * 64) | (contents or {})
    data = Dataset(home, tuple((changed or {}).get(name) or row(name) for name in names), contents=digests)
    sets: dict[Split, SplitSet] = {}
    for each in SPLITS:
        rows = tuple(
            SplitRow(row=one.image, group=f"all of {one.group}", sha256=digests[one.image], label=one.label)
            for one in data.rows
            if names[one.image] == each
        )
        sets[each] = SplitSet(rows=rows, groups=2, positives=2)
    folds = (sets["val_calib"].ids,)
    places = {"val_calib": PLACES, "test": PLACES.model_copy(update={"places": len(changed or {})})}
    Splits(seed=0, data_sha256=data.sha256, sets=sets, folds=folds, places=places).write(home / "splits.json")
    return data


def seen(home: Path, reads: RowsOf, **more: Any) -> str:
    return reads(night(home, **more), {"splits": home}).sha256


READS = RowsOf({"train": Seen(("label",), ("daytime",)), "test": PICTURES})


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"label": 0}, {"test", "val_calib"}),
        ({"group": "other"}, set(SPLITS)),
        ({"source": "other"}, set(SPLITS)),
        ({"metadata": {"weather": "snow", "info.daytime": "night"}}, set(SPLITS)),
        ({"metadata": {"weather": "rain", "info.daytime": "day"}}, {"test", "val_calib"}),
        # How a picture is seen depends on it.
        ({"as_sent": True}, {"val_calib"}),
    ],
    ids=["label", "group", "source", "weather", "daytime", "as sent"],
)
@pytest.mark.parametrize("where", ["train", "test", "val_calib"])
def test_a_cell_counts_where_it_is_seen(tmp_path: Path, change: dict[str, Any], same: set[str], where: str) -> None:
    name = f"{where}0.jpg"
    before = seen(tmp_path, READS)
    after = seen(tmp_path, READS, changed={name: row(name, **change)})
    assert (before == after) == (where in same)


@pytest.mark.parametrize(("where", "same"), [("train", False), ("test", False), ("val_calib", True)])
def test_a_picture_counts_where_its_set_is_seen(tmp_path: Path, where: str, same: bool) -> None:
    before = seen(tmp_path, READS)
    after = seen(tmp_path, READS, contents={f"{where}0.jpg": "1" * 64})
    assert (before == after) == same


def test_what_is_not_declared_is_not_there(tmp_path: Path) -> None:
    rows = READS(night(tmp_path), {"splits": tmp_path})
    train, test = rows.by_id["train0.jpg"], rows.by_id["test0.jpg"]
    assert (train.label, train.about("daytime"), train.as_sent) == (1, "night", False)
    assert train.metadata == {"info.daytime": "night"}
    assert set(rows.by_id) == {"train0.jpg", "train1.jpg", "test0.jpg", "test1.jpg"}
    with pytest.raises(AttributeError, match="label"):
        _ = test.label
    with pytest.raises(AttributeError, match="group"):
        _ = rows.groups
    with pytest.raises(PipelineError, match="the column 'weather' is read"):
        train.about("weather")
    splits = rows.splits
    assert splits is not None
    assert set(splits.contents) == set(rows.ids)
    assert set(splits.sets) == {"train", "test"}
    with pytest.raises(AttributeError, match="group"):
        _ = splits.groups
    with pytest.raises(AttributeError, match="folds"):
        _ = splits.folds


def test_a_row_is_in_the_group_of_all_that_depends_on_it(tmp_path: Path) -> None:
    rows = RowsOf({"train": LABELLED})(night(tmp_path), {"splits": tmp_path})
    assert rows.groups == ["all of drive train0.jpg", "all of drive train1.jpg"]


def test_a_fact_may_be_one_entry_of_a_field(tmp_path: Path) -> None:
    """How many places of test are in train concerns no certificate."""
    reads = RowsOf({"val_calib": LABELLED}, facts=("places.val_calib", "lost"))
    before = seen(tmp_path, reads)
    assert seen(tmp_path, reads, changed={"test0.jpg": row("test0.jpg")}) == before
    splits = reads(night(tmp_path), {"splits": tmp_path}).splits
    assert splits is not None
    assert (splits.places, splits.lost) == ({"val_calib": PLACES}, LostRows())


def test_rows_of_other_data_are_refused(tmp_path: Path) -> None:
    data = night(tmp_path)
    other = replace(data, rows=(data.rows[0].model_copy(update={"label": 0}), *data.rows[1:]))
    with pytest.raises(DatasetError, match=r"not the data that were split.*run again from splits"):
        READS(other, {"splits": tmp_path})


def test_nothing_needs_no_splits(tmp_path: Path) -> None:
    assert len(RowsOf({})(night(tmp_path / "a"), {})) == 0
    assert RowsOf({})(night(tmp_path / "a"), {}).sha256 == RowsOf({})(night(tmp_path / "b"), {}).sha256

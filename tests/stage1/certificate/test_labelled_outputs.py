"""Labelled rows are checked at the border: what is wrong with them is said, and where."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from stage1.certificate.labelled_outputs import LabelledOutputs, check_disjoint
from stage1.errors import OutputsError, RowsError
from stage1.outputs import Stage1Outputs

Maker = Callable[..., Stage1Outputs]


def rows(outputs: Stage1Outputs, **changes: object) -> LabelledOutputs:
    count = len(outputs)
    fields: dict[str, object] = {
        "labels": (np.arange(count) % 2).astype(np.int8),
        "row_ids": [f"{i}.jpg" for i in range(count)],
        "groups": [f"drive {i // 2}" for i in range(count)],
    }
    return LabelledOutputs(outputs, **(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(outputs_of: Maker, value: float) -> None:
    with pytest.raises(OutputsError, match="logits contain NaN or infinity in 1 places"):
        outputs_of(np.array([0.0, value]))
    with pytest.raises(OutputsError, match="select_score contain NaN or infinity in 1 places"):
        outputs_of(np.zeros(2), np.array([0.0, value]))


@pytest.mark.parametrize("label", [2, -1])
def test_labels_are_0_or_1(outputs_of: Maker, label: int) -> None:
    labels = np.array([0, 1, label, label], np.int8)
    with pytest.raises(RowsError, match=rf"2 labels are neither 0 nor 1, the first is {label} of row '2.jpg'"):
        rows(outputs_of(np.zeros(4)), labels=labels)


def test_there_are_rows(outputs_of: Maker) -> None:
    with pytest.raises(RowsError, match="there are no rows"):
        rows(outputs_of(np.zeros(0)))


def test_a_row_is_there_once(outputs_of: Maker) -> None:
    with pytest.raises(RowsError, match=r"row 'a.jpg' is there twice; 2 rows repeat"):
        rows(outputs_of(np.zeros(4)), row_ids=["b.jpg", "a.jpg", "a.jpg", "a.jpg"])


@pytest.mark.parametrize("column", ["labels", "row_ids", "groups"])
def test_columns_are_as_long_as_the_outputs(outputs_of: Maker, column: str) -> None:
    short = np.zeros(2, np.int8) if column == "labels" else ["a", "b"]
    with pytest.raises(RowsError, match=f"3 outputs, 2 {column}"):
        rows(outputs_of(np.zeros(3)), **{column: short})


def test_a_column_of_metadata_is_as_long_as_the_outputs(outputs_of: Maker) -> None:
    with pytest.raises(RowsError, match="3 outputs, 2 daytime"):
        rows(outputs_of(np.zeros(3)), metadata={"daytime": ["day", "night"]})


def test_a_column_that_is_not_there_names_those_that_are(outputs_of: Maker) -> None:
    data = rows(outputs_of(np.zeros(3)), metadata={"weather": ["rain", "", "dry"]})
    assert data.column("weather").tolist() == ["rain", "unknown", "dry"]
    with pytest.raises(RowsError, match="no column 'daytime' in the data; there is weather"):
        data.column("daytime")


def test_some_rows_are_those_rows(outputs_of: Maker) -> None:
    data = rows(outputs_of(np.arange(4.0)), metadata={"weather": list("abcd")})
    some = data.pick(np.array([3, 1]))
    assert (some.row_ids, some.groups) == (["3.jpg", "1.jpg"], ["drive 1", "drive 0"])
    assert some.outputs.roadwork_score.tolist() == [3.0, 1.0]
    assert some.metadata["weather"] == ["d", "b"]


def test_the_hash_of_rows_does_not_depend_on_their_order(outputs_of: Maker) -> None:
    data = rows(outputs_of(np.arange(4.0)))
    assert data.pick(np.array([2, 0, 3, 1])).rows_sha256 == data.rows_sha256
    assert data.pick(np.array([2, 0, 3])).rows_sha256 != data.rows_sha256


def test_sets_that_share_a_group_or_a_row_are_refused(outputs_of: Maker) -> None:
    data = rows(outputs_of(np.zeros(6)))
    check_disjoint(data.pick(np.array([0, 1])), data.pick(np.array([2, 3])), ("train", "val_calib"))
    with pytest.raises(RowsError, match="train and val_calib share 1 groups, for example 'drive 1'"):
        check_disjoint(data.pick(np.array([0, 2])), data.pick(np.array([3, 4])), ("train", "val_calib"))
    renamed = rows(outputs_of(np.zeros(6)), groups=[f"other {i}" for i in range(6)])
    with pytest.raises(RowsError, match=r"share 2 rows, for example '0.jpg'"):
        check_disjoint(data.pick(np.array([0, 1])), renamed.pick(np.array([0, 1])), ("train", "val_calib"))


@pytest.mark.parametrize("name", ["daytime", "Daytime", "tags.daytime"])
def test_a_column_is_found_in_any_case_and_by_the_end_of_a_dotted_name(outputs_of: Maker, name: str) -> None:
    labelled = rows(outputs_of(np.zeros(2)), metadata={"tags.daytime": ["day", ""]})
    assert labelled.column(name).tolist() == ["day", "unknown"]


@pytest.mark.parametrize("name", ["Time of Day", "time_of_day", " time  of day", "tags.Time of day"])
def test_blanks_in_the_name_of_a_column_do_not_matter(outputs_of: Maker, name: str) -> None:
    labelled = rows(outputs_of(np.zeros(2)), metadata={"tags.time_of_day": ["day", ""]})
    assert labelled.column(name).tolist() == ["day", "unknown"]


def test_of_several_columns_that_are_meant_the_first_that_says_anything_describes_a_row(outputs_of: Maker) -> None:
    metadata = {"b.daytime": ["b", "b", ""], "daytime": ["own", "", ""], "a.daytime": ["a", "", ""]}
    labelled = rows(outputs_of(np.zeros(3)), metadata=metadata)
    assert labelled.about("daytime") == ["own", "b", ""]
    assert labelled.column("daytime").tolist() == ["own", "b", "unknown"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(outputs_of: Maker) -> None:
    labelled = rows(outputs_of(np.zeros(2)), metadata={"tags.daytime": ["day", ""]})
    with pytest.raises(RowsError, match=r"no column 'time' in the data; there is tags\.daytime"):
        labelled.column("time")

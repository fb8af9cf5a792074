"""What the columns of a table are called: one column, however it is spelled, and the end of a dotted name."""

from __future__ import annotations

import pytest

from stage1.column_names import column_name, columns_called


@pytest.mark.parametrize("header", ["group", " group", "Group ", "GROUP", "\ufeffgroup", "\u00a0group\u00a0"])
def test_case_and_blanks_do_not_make_another_column(header: str) -> None:
    assert column_name(header) == "group"


def test_blanks_inside_of_a_name_are_one_underscore() -> None:
    assert column_name("Time  of Day") == "time_of_day"


def test_a_name_means_its_own_column_first_and_then_those_that_end_in_it() -> None:
    names = ("b.vid_id", "vid_id", "a.vid_id", "david_id", "vid_id.a")
    assert columns_called("Vid ID", names) == ("vid_id", "a.vid_id", "b.vid_id")
    assert columns_called("b.vid_id", names) == ("b.vid_id",)
    assert columns_called("seq_id", names) == ()

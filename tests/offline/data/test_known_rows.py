"""Rows are known again by what is in their files, and by their paths where nobody noted that."""

from __future__ import annotations

from pathlib import Path

from offline.data.dataset import Dataset, Row
from offline.data.known_rows import KnownRows, NotedRow, found_by_content
from stage1.artifacts import sha256_file

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def here(**contents: str) -> KnownRows:
    return KnownRows(frozenset(contents), contents)


def test_a_row_is_known_under_another_name() -> None:
    noted = here(old=A).note(["old"])
    assert here(new=A, other=B).among(noted, ["new", "other"]) == ["new"]


def test_a_picture_that_was_exported_again_is_the_same_picture() -> None:
    noted = here(old=A).note(["old"])
    assert here(old=B).among(noted, ["old"]) == ["old"]


def test_a_path_that_another_picture_has_taken_is_another_row() -> None:
    noted = here(old=A).note(["old"])
    assert here(old=B, new=A).among(noted, ["old"]) == []


def test_a_row_of_which_only_the_path_was_noted_is_known_by_it() -> None:
    noted = [NotedRow(row="old")]
    assert here(old=A, other=B).among(noted, ["old", "other"]) == ["old"]
    assert here(old=A).unknowable(noted) == []
    assert here(new=A).unknowable(noted) == ["old"]


def test_a_row_whose_content_was_noted_is_never_unknowable() -> None:
    assert here(new=C).unknowable(here(old=A).note(["old"])) == []


def rows_with(root: Path, **contents: str) -> Dataset:
    for name, text in contents.items():
        (root / name).write_text(text)
    return Dataset(root, tuple(Row(image=name, label=0, group=name) for name in contents))


def noted(data: Dataset) -> list[NotedRow]:
    return [NotedRow(row=row, sha256=sha256_file(data.path_of(row))) for row in data.ids]


def test_copies_stand_for_as_many_rows_in_the_order_of_their_names(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    before = noted(rows_with(tmp_path / "before", a="same", b="same", c="other", d="same"))
    after = rows_with(tmp_path / "after", x="same", c="other", d="same")
    # One of three copies is gone.
    assert found_by_content(before, after) == {"a": "x"}


def test_no_other_file_is_read_where_every_row_is_under_its_name(tmp_path: Path) -> None:
    data = rows_with(tmp_path, a="one", b="two")
    before = noted(data.pick(["a"]))
    (tmp_path / "b").unlink()
    assert found_by_content(before, data) == {}
